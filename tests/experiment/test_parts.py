"""The parts of runs, and which runs share programs."""

import dataclasses
from typing import Any

import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.experiment import parts as parts_lib
from tests import tiny


def program_of(method="quped", seed=0, counts=(20, 30, 40), **changes):
  settings = tiny.make_settings(method, len(counts), seed=seed, **changes)
  federation = tiny.make_federation(counts, seed)
  return parts_lib.program_of(
    parts_lib.make_parts(settings, federation=federation)
  )


def test_parts_hold_what_the_settings_describe():
  settings = tiny.make_settings("quped", 2, epochs=1, held_out_clients=1)
  made = parts_lib.make_parts(
    settings, federation=tiny.make_federation((16, 32, 8))
  )
  # Three batches per client on average.
  assert (made.settings.steps, made.settings.epochs) == (3, 0)
  assert made.trained.num_clients == 2 and made.federation.num_clients == 3
  assert {k: list(m) for k, m in made.members.items()} == {"clients": [0, 1]}
  assert made.population.spec.bits.shape == (3,)
  assert made.population.values["quped.lambda_p"] == 0.5
  assert made.privacy is None


SAME: list[dict[str, Any]] = [
  {"seed": 1},
  {"learning_rate": (0.3,), "strength": 0.1, "rounds": 7},
  {"quped": {"lambda_p": 0.1}},
  {"bits": (2, 1, 32)},
]
OTHER: list[dict[str, Any]] = [
  {"steps": 3},
  {"participation": (0.5,)},
  {"dropout": 0.5},
  {"bits": (1, 3)},
  {"hidden": (4, 4)},
  {"clients_per_round": 2},
  {"counts": (20, 30)},
]


def test_runs_share_programs_if_they_differ_in_data_and_numbers_alone():
  plain = program_of()
  hash(plain)
  # As many samples in all, which are others, divided in another way.
  for changes in SAME:
    assert program_of(**changes) == plain
  for changes in OTHER:
    assert program_of(**changes) != plain
  assert program_of(counts=(30, 25, 35)) == plain
  each = {"epochs": 1, "epochs_of": "each", "batch_size": 4}
  uneven = program_of(counts=(20, 30, 40), **each)
  # As long as the largest client has as many steps.
  assert program_of(counts=(25, 25, 40), seed=1, **each) == uneven
  assert program_of(counts=(20, 26, 44), **each) != uneven
  assert program_of(counts=(20, 30, 40), steps=10, batch_size=4) != uneven
  assert program_of(dropout=0.2) == program_of(dropout=0.3)


@pytest.mark.parametrize(
  ("name", "shares"),
  [("quped", True), ("scaffold", True), ("feddf", True), ("fedgkt", False)],
)
def test_methods_share_programs_unless_they_hold_more_of_the_data(name, shares):
  found = {program_of(name, seed=seed, bits=(32,)) for seed in (0, 1)}
  assert (len(found) == 1) == shares
  # On the same data, all do.
  options = {**dict(tiny.CASES[name].options), "server_learning_rate": 0.5}
  if name in ("fedgkt", "scaffold"):
    other = program_of(name, bits=(32,), method_options={name: options})
    assert other in found


def test_a_registered_method_that_takes_the_data_shares_them_with_nobody():
  def make(models, training, options, federation):
    assert federation is not None
    entry = methods.get_method("local")
    return entry.build(models, training, options, None)

  entry = methods.get_method("local")
  qj.register_method("local_of_data", make, entry.options, version=1)
  try:
    settings = tiny.make_settings("local", 2, bits=(32,))
    settings = dataclasses.replace(
      settings, method="local_of_data", method_options={}
    )
    found = [
      parts_lib.program_of(
        parts_lib.make_parts(
          settings, federation=tiny.make_federation((9, 9), seed)
        )
      )
      for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
  finally:
    del methods.METHODS["local_of_data"]
