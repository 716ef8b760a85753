"""docs/errors.md quotes what the library says: each message is in the code.

Those that cost nothing are raised, and must be the same to the letter.
"""

import ast
import functools
import pathlib
import re
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text()
QUOTED = [
  " ".join(block.split())
  for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.M)
]

INPUTS = np.random.default_rng(0).normal(size=(40, 5))
LABELS = np.arange(40) % 4


def data(inputs: Any = INPUTS, labels: Any = LABELS):
  return qj.from_arrays(inputs, labels)


def build(**settings):
  parts = qj.partition(data(), "iid", 4)
  federation = qj.make_federation(data(), parts)
  qj.build(qj.Settings(**{"clients": 4, **settings}), federation=federation)


def with_a_missing_value():
  inputs = INPUTS.copy()
  inputs[3, 2] = np.nan
  return inputs


def update(*, params=True, codebooks=True, rate: float | None = 0.1):
  """One update of a tiny tree, with something left out."""
  tree = {"k": jnp.arange(3.0)}
  own = qj.init_codebooks(tree, lambda path: True, 2)
  optimizer = qj.prox_quantize(rate, 0.1)
  optimizer.update(
    tree,
    optimizer.init(tree),
    tree if params else None,
    codebooks=own if codebooks else None,
  )


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    return nn.BatchNorm(use_running_average=False)(inputs)


def interrupt():
  raise qj.Interrupted(15, "round 3 is saved")


def init_normalised():
  model = qj.from_linen(Normalised(), "net")
  model.init(jax.random.key(0), jnp.ones((1, 3)))


RAISED = {
  "bits=16": lambda: qj.Settings(bits=16),
  "learning_rate=(0.1": lambda: qj.Settings(
    learning_rate=(0.1, 0.2, 0.3), bits=(1, 2)
  ),
  "attackers": lambda: qj.Settings.from_dict({"attackers": 3}),
  "public_size": lambda: build(method="feddf"),
  "bits: ": lambda: build(method="apfl"),
  "loss=": lambda: build(loss="squared_error"),
  "labels: are from 1": lambda: data(labels=LABELS + 1),
  "labels.shape": lambda: data(labels=np.eye(4)[LABELS]),
  "labels=0.5": lambda: data(labels=LABELS + 0.5),
  "inputs: are of size": lambda: data(100 * INPUTS),
  "inputs=nan": lambda: data(with_a_missing_value()),
  "clients=5": lambda: build(clients=5),
  "partition='iid'": lambda: qj.partition(data(), "iid", 40),
  "partition='dirichlet'": lambda: qj.partition(
    data(), "dirichlet", 10, alpha=0.01, min_size=3
  ),
  "bits=(1,)": lambda: build(hidden=(8,)),
  "predicate": lambda: qj.init_codebooks(
    {"k": jnp.ones(3)}, lambda path: path.endswith("kernel"), 2
  ),
  "bits={": lambda: qj.init_codebooks(
    {"a": jnp.arange(3.0), "b": jnp.arange(3.0)}, lambda path: True, {"a": 2}
  ),
  "module": init_normalised,
  "codebooks=None": lambda: update(codebooks=False),
  "params=None": lambda: update(params=False),
  "learning_rate=None": lambda: update(rate=None),
  "stopped": interrupt,
  "path=": lambda: qj.load_packed("nothing.safetensors"),
}


@pytest.mark.parametrize("start", RAISED)
def test_it_is_raised_as_it_is_quoted(start):
  (quoted,) = [
    text for text in QUOTED if text.split(": ", 1)[1].startswith(start)
  ]
  kind, message = quoted.split(": ", 1)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises((ValueError, UserWarning, qj.Interrupted)) as raised:
      RAISED[start]()
  assert type(raised.value).__name__ == kind
  assert " ".join(str(raised.value).split()) == message


@functools.cache
def templates() -> list[re.Pattern[str]]:
  """All texts of the library, with whatever is filled in left open."""
  found = []
  for path in (ROOT / "quped_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      text = pattern(node)
      # What is nothing but values would match anything.
      if text and len(re.sub(r"\.\*|\\", "", text)) > 20:
        found.append(re.compile(text))
  return found


def pattern(node: ast.AST) -> str:
  """What a text may look like; "" for any other node."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return re.escape(node.value)
  if isinstance(node, ast.JoinedStr):
    return "".join(
      pattern(part) if isinstance(part, ast.Constant) else ".*"
      for part in node.values
    )
  return ""


@pytest.mark.parametrize(
  "quoted",
  [
    text
    for text in QUOTED
    if not any(text.split(": ", 1)[1].startswith(start) for start in RAISED)
  ],
)
def test_what_is_not_raised_here_is_in_the_code(quoted):
  message = quoted.split(": ", 1)[1]
  assert any(template.match(message) for template in templates()), message


def test_most_are_raised():
  assert len(RAISED) > len(QUOTED) / 2
