"""The identity of a run, and what differs between two."""

import dataclasses
import json
import re
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.experiment import identity, metrics
from quped_jax.experiment.assemble import assemble
from tests import tiny
from tests.hostile import cases, other_json


def identity_of(method="quped", *, federation=None, model=None, **changes):
  settings = tiny.make_settings(method, 2, bits=(1, 32), **changes)
  federation = federation or tiny.make_federation((9, 12))
  made = assemble(settings, federation=federation, model=model)
  return identity.of(made, settings)


def names_of(differences):
  return [line.partition(" is ")[0] for line in differences]


@pytest.mark.slow
def test_the_same_run_differs_in_nothing():
  assert identity_of() == identity_of()
  assert identity.differences(identity_of(), identity_of()) == []
  # Nor by settings that change no result.
  assert identity_of(checkpoint_every=3, strategy="vmap") == identity_of()


@pytest.mark.slow
def test_what_differs_is_named_with_both_values():
  other = identity_of(rounds=7, method_options={"quped": {"lambda_p": 0.7}})
  first = identity_of()
  assert identity.differences(first, other) == [
    "rounds is 40 there and 7 here",
    "quped.lambda_p is 0.5 there and 0.7 here",
  ]
  data = identity_of(federation=tiny.make_federation((9, 12), seed=1))
  assert identity.differences(first, data) == ["data is not the same"]
  del data["data"]
  (line,) = identity.differences(data, first)
  assert line == "data is not known there and given here"


@pytest.mark.slow
def test_of_another_method_only_its_name_is_said():
  assert identity.differences(identity_of(), identity_of("fedavg")) == [
    "method is 'quped' there and 'fedavg' here"
  ]


@pytest.mark.slow
def test_the_networks_of_cohorts_are_named():
  def make(activation):
    model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
    return model._replace(
      apply=lambda params, stats, inputs, train: (
        activation * model.apply(params, stats, inputs, train)[0],
        stats,
      )
    )

  first, second = identity_of(model=make(1.0)), identity_of(model=make(2.0))
  assert names_of(identity.differences(first, second)) == [
    "network of clients",
    "global network",
  ]


def test_the_version_of_a_method_is_part_of_the_identity(monkeypatch):
  first = identity_of()
  entry = qj.methods.METHODS["quped"]
  version = entry.version
  assert version is not None
  monkeypatch.setitem(
    qj.methods.METHODS, "quped", entry._replace(version=version + 1)
  )
  (line,) = identity.differences(first, identity_of())
  assert line.startswith(
    f"code of the method is 'version {version}' there and "
    f"'version {version + 1} of "
  )


def test_so_is_that_of_the_library(monkeypatch):
  first = identity_of()
  monkeypatch.setattr(identity.version, "__version__", "99")
  assert identity.differences(first, identity_of()) == [
    f"version of quped_jax is {first['version of quped_jax']!r} there and '99' "
    "here"
  ]


@pytest.mark.parametrize("line", ["1,1", "0,1"])
def test_so_is_the_content_of_a_participation_trace(tmp_path, line):
  trace = tmp_path / "trace.csv"
  trace.write_text("round,client\n0,0\n1,0\n")
  first = identity_of("fedavg", rounds=3, participation_trace=str(trace))
  trace.write_text(f"round,client\n0,0\n{line}\n")
  second = identity_of("fedavg", rounds=3, participation_trace=str(trace))
  assert names_of(identity.differences(first, second)) == [
    "participation trace"
  ]


@pytest.mark.parametrize(
  "changes",
  [
    {"participation_trace": "trace.csv", "rounds": 2},
    {"dataset": "synthetic", "held_out_clients": 1},
    {"budget_bytes": (3000, 9_000_000), "candidates": "mlp(8,8), mlp(64,64)"},
    pytest.param(
      {"client_types": "2*mlp(8,8)@1, 3*mlp(9,9)@32", "method": "fedmd"},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"model": "cnn1", "hidden": (), "method": "fedgkt"},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_it_follows_from_settings_before_a_run_is_made(
  tmp_path, monkeypatch, changes
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "trace.csv").write_text("round,client\n0,0\n1,1\n")
  values = {"clients": 5, "method": "local", "hidden": (8, 8), **changes}
  if values["method"] == "fedmd":
    values["public_size"] = 20
  settings = qj.Settings(**values)
  made = assemble(settings)
  assert identity.of(made, settings) == identity.of_settings(settings)


def test_every_setting_that_changes_results_is_in_it():
  changing = {
    f.name
    for f in dataclasses.fields(qj.Settings)
    # Later ones are in it where they are not at their defaults.
    if not f.metadata["free"] and not f.metadata["later"]
  }
  assert changing - {"method_options"} <= set(identity_of())


@pytest.mark.slow
def test_what_draws_random_numbers_is_part_of_the_identity():
  config: Any = jax.config
  first = identity_of()
  config.update("jax_threefry_partitionable", False)
  try:
    other = identity_of()
  finally:
    config.update("jax_threefry_partitionable", True)
  assert identity.differences(first, other) == [
    "random numbers is 'threefry2x32' there and "
    "'threefry2x32, not partitionable' here"
  ]


def test_numbers_that_are_not_finite_are_read_back_as_they_were(tmp_path):
  here = identity.join(tiny.make_settings("local", 2, bits=(32,)))
  here |= identity.join(
    tiny.make_settings("local", 2, bits=(32,)), {"mine": {"x": np.inf}}
  )
  assert here["mine"] == {"x": "inf"}
  metrics.Writer(tmp_path).start({}, here)
  assert identity.differences(identity.recorded(tmp_path, here), here) == []


def test_of_several_processes_the_states_server_counts(monkeypatch):
  settings = tiny.make_settings("fedavg", 2, bits=(32,))
  made = assemble(settings, federation=tiny.make_federation((9, 12)))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  first, same, other = (
    identity.of(made, settings, made.simulation.init(seed))
    for seed in (0, 0, 1)
  )
  assert first == same
  assert identity.differences(first, other) == ["initial state is not the same"]


def left(folder, content, name="identity.json"):
  (folder / "summary.json").write_text("{}")
  path = folder / name
  text = content if isinstance(content, bytes) else json.dumps(content).encode()
  path.write_bytes(text)
  return path


def only(found):
  assert found is not None and len(found) == 1
  return found[0]


@pytest.mark.parametrize("name", ["identity.json", "config.json"])
@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "Expecting value"),
    (b"[" * 100_000, "it is nested too deeply"),
    (b"\xff", "decode"),
    ([], r"\[\]: must be an object"),
    (b'{"seed": 0, "seed": 1}', "'seed': must be given only once"),
    ({"kinds": "", "client_types": ""}, "kinds: must not be given beside"),
  ],
)
def test_a_file_that_says_no_identity_is_named(
  content, message, name, tmp_path
):
  """As what another run left, which is replaced only if that is wished."""
  path = left(tmp_path, content, name)
  differ = only(identity.of_another_run(tmp_path, {"seed": 0}))
  must = rf"^{path}: must be an object of values by name \(.*{message}"
  assert re.search(must, differ)
  with pytest.raises(ValueError, match=must):
    identity.recorded(tmp_path, {"seed": 0})


@pytest.mark.parametrize("there", [True, 1.0, "1", [1], None, 2**64 + 1])
def test_a_value_is_taken_for_no_other(there, tmp_path):
  left(tmp_path, {"seed": there})
  differ = only(identity.of_another_run(tmp_path, {"seed": 1}))
  assert differ.startswith("seed is ") and differ.endswith(" there and 1 here")


def test_a_long_value_is_shown_in_part(tmp_path):
  left(tmp_path, {"seed": [["x" * 10_000] * 100]})
  differ = only(identity.of_another_run(tmp_path, {"seed": 1}))
  assert len(differ) < 1000


IDENTITY = {
  "seed": 1,
  "rounds": 20,
  "learning_rate": [0.1, 0.5],
  "warm_start": "",
  "participation_trace": None,
  "quped": {"lambda_p": 0.3, "center": True},
}


@given(data=st.data(), name=st.sampled_from(["identity.json", "config.json"]))
@cases(50)
def test_a_hostile_identity_is_the_same_or_another(
  data, name, tmp_path_factory
):
  folder = tmp_path_factory.mktemp("identity")
  path = left(folder, data.draw(other_json(IDENTITY)), name)
  differ = identity.of_another_run(folder, IDENTITY)
  assert differ is not None and all(len(line) < 1000 for line in differ)
  if not differ:
    said = json.loads(path.read_text())
    if name == "config.json":  # It has values that change no result.
      said = {key: said[key] for key in IDENTITY}
    # No options of a method say nothing.
    said = {k: x for k, x in said.items() if k in IDENTITY or x != {}}
    assert json.dumps(said, sort_keys=True) == json.dumps(
      IDENTITY, sort_keys=True
    )
