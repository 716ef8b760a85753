"""The register of numbers that are folded into keys."""

import ast
import pathlib

from quped_jax import random_keys

PACKAGE = pathlib.Path(random_keys.__file__).parent

# Grouped by the key they are folded into. Changing a number changes results.
ROOT = {
  "INITIALIZATION": 2**31 - 1,
  "EVALUATION": 2**31 - 3,
  "HELD_OUT_CLIENTS": 2**31 - 4,
}
ROUND = {
  "SERVER": 2**31 - 1,
  "SELECTION": 2**31 - 2,
  "DROPOUT": 2**31 - 6,
}
CLIENT = {
  "STRAGGLER": 2**31 - 5,
  "FEDREP_BODY": 2,
  "PUBLIC_DISTILLATION": 101,
  "PUBLIC_ROWS": 102,
  "FEDGEN_GENERATOR": 101,
  "FEDGEN_SERVER": 102,
  "FEDGEN_SAMPLES": 103,
  "FEDBE_SAMPLES": 161,
  "FEDMD_PRETRAINING": 111,
  "PER_FEDAVG_ADAPTATION": 121,
  "INPUT_GENERATOR": 171,
  "ATTACK": 131,
  "COMPRESSION": 161,
  "PRIVACY_NOISE": 141,
  "FEDALA_WEIGHTS": 171,
}
BATCH = {"TRAINING_PASS": 151}
CHANCE = {"FURTHER_BITS": 0}
SYNTHETIC = {
  "SYNTHETIC_MEANS": 0,
  "SYNTHETIC_CLASSES": 1,
  "SYNTHETIC_NOISE": 2,
}


def test_the_register_is_what_it_was():
  names = {name for name in vars(random_keys) if name.isupper()}
  listed = ROOT | ROUND | CLIENT | BATCH | CHANCE | SYNTHETIC
  assert {name: getattr(random_keys, name) for name in names} == listed


def test_numbers_that_meet_in_one_key_differ():
  for numbers in (ROOT, ROUND, SYNTHETIC):
    assert len(set(numbers.values())) == len(numbers)
  # Numbers of methods: no two methods run together, but each runs with any
  # wrapper.
  groups = (
    ("PUBLIC_DISTILLATION", "PUBLIC_ROWS", "FEDMD_PRETRAINING"),
    ("FEDBE_SAMPLES",),
    ("INPUT_GENERATOR",),
    ("FEDGEN_GENERATOR", "FEDGEN_SERVER", "FEDGEN_SAMPLES"),
    ("FEDREP_BODY",),
    ("PER_FEDAVG_ADAPTATION",),
    ("FEDALA_WEIGHTS",),
  )
  for group in groups:
    met = [*group, "ATTACK", "PRIVACY_NOISE", "STRAGGLER", "TRAINING_PASS"]
    assert len({(CLIENT | BATCH)[name] for name in met}) == len(met)


def test_no_number_is_folded_in_without_a_name():
  found = 0
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and "fold_in" in ast.unparse(node.func):
        found += 1
        constants = [
          x for x in ast.walk(node.args[1]) if isinstance(x, ast.Constant)
        ]
        assert not constants, f"{path}: {ast.unparse(node)}"
  assert found > 15
