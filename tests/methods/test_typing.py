"""A type checker sees functions of a method that have a wrong signature."""

import pytest

from quped_jax.methods.api import Changes, FederatedMethod
from tests import typed

USE = """
import dataclasses
import jax
import quped_jax as qj
from quped_jax.data.federation import Federation
from quped_jax.methods.api import (
  Aggregate, ClientResult, FederatedMethod, GlobalModel, Models
)
from quped_jax.methods.blocks.averaging import averaging_method
from quped_jax.methods.blocks.training import Training

@dataclasses.dataclass(frozen=True)
class Options:
  pull: float = 0.1

def change(models: Models, training: Training):
  fedavg = averaging_method("mine", models, training)
"""

# For each function of a method: right arguments, wrong ones, a result.
FUNCTIONS = {
  "init_server": ("key, inputs", "key", "()"),
  "init_client": (
    "key, inputs, server, client_id, spec, cohort",
    "key, inputs, server, client_id, cohort",
    "()",
  ),
  "broadcast": ("server, context, cohort", "server", "server"),
  "client_update": (
    "download, client, data, context, cohort",
    "client, data, context, cohort",
    "ClientResult(client, (), 1.0, {})",
  ),
  "server_update": (
    "server, aggregates, context",
    "server, aggregates",
    "server",
  ),
  "variants": (
    "server, client, data, context, cohort",
    "server, client",
    "{'global': (server, {}, models.shared)}",
  ),
  "receive": (
    "server, message, weight, context, cohort",
    "server, message, weight",
    "Aggregate(message, weight)",
  ),
  "collect": ("message, context", "message", "message"),
  "global_model": ("server, cohort", "server", "(server, {}, models.shared)"),
  "start": (
    "server, spec, cohort",
    "server, cohort",
    "(GlobalModel(server, {}), models.shared)",
  ),
  "begin_finetune": ("client", "client, context", "client"),
}

# Functions that return something else than they should.
RESULTS = {
  "client_update": ("download, client, data, context, cohort", "(client, ())"),
  "variants": ("server, client, data, context, cohort", "[server]"),
  "receive": ("server, message, weight, context, cohort", "1.0"),
  "global_model": ("server, cohort", "'global'"),
}

# For `make`: arguments, result, whether it may be registered with them.
MAKERS = (
  ("models, training, options", "FederatedMethod", True),
  ("models, training, options, federation", "FederatedMethod", True),
  ("models: Models, training: Training, options: Options", "Any", True),
  (
    "models: Models, training: Training, options: Options, "
    "federation: Federation",
    "FederatedMethod",
    True,
  ),
  ("models, training", "FederatedMethod", False),
  ("models, federation, training, options", "FederatedMethod", False),
  ("models, training, options, data", "FederatedMethod", False),
  ("models, training, options", "float", False),
)


def usage() -> tuple[str, set[int]]:
  """A module that uses the types, and its wrong lines, counted from 0."""
  lines: list[str] = []
  lines += USE.splitlines()
  wrong = set()

  def put(name, arguments, result, right):
    mine = f"function_{len(lines)}"
    lines.append(f"  def {mine}({arguments}): return {result}")
    lines.append(f"  fedavg.replace({name}={mine})")
    if not right:
      wrong.add(len(lines) - 1)

  for name, (right, other, result) in FUNCTIONS.items():
    put(name, right, result, True)
    put(name, other, result, False)
  for name, (arguments, result) in RESULTS.items():
    put(name, arguments, result, False)
  lines += ["  fedavg.replace(sever_update=None)", "from typing import Any"]
  wrong.add(len(lines) - 2)
  for i, (arguments, result, right) in enumerate(MAKERS):
    lines.append(f"def make_{i}({arguments}) -> {result}: ...")
    lines.append(f"qj.register_method('mine', make_{i}, Options)")
    if not right:
      wrong.add(len(lines) - 1)
  return "\n".join(lines), wrong


@pytest.mark.slow
@typed.needs_pyright
def test_a_wrong_signature_is_an_error(tmp_path):
  text, wrong = usage()
  found = typed.complaints(text, tmp_path)
  # Ignores that stubs return nothing.
  found = [x for x in found if x.get("rule") != "reportReturnType"]
  lines = {x["range"]["start"]["line"] for x in found}
  assert lines == wrong, found


def test_every_function_of_a_method_can_be_replaced():
  assert tuple(Changes.__annotations__) == FederatedMethod._fields
