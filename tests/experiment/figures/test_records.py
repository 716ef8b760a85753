"""What a run records for its figures."""

import json
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.figures import records
from quped_jax.methods.api import GlobalModel
from quped_jax.methods.blocks.averaging import Levels
from quped_jax.quantization.alternating import Learner
from quped_jax.simulation.layout import DIVIDED, SAME, resolve_layout

BITS = np.array([32, 2, 1, 32, 1, 2])
# The first of the lowest precision.
CLIENT = 2
SHAPE = 6, 4


def assembly(bits=BITS, rounds=10, eval_every=1, global_model=None) -> Any:
  """What a Recorder looks at of a run."""
  return types.SimpleNamespace(
    assignment=types.SimpleNamespace(bits=bits),
    settings=types.SimpleNamespace(
      clients=len(bits), rounds=rounds, eval_every=eval_every
    ),
    cohorts=lambda: {"clients": ("mlp", np.arange(len(bits)))},
    method=types.SimpleNamespace(global_model=global_model),
  )


def recorder(wanted=True, **changes) -> records.Recorder:
  return records.Recorder(assembly(**changes), wanted)


def weights(clients=6, seed=0, shape=SHAPE):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(clients, *shape)).astype(np.float32)


def codebooks():
  centers = np.sort(weights(seed=1, shape=(4,)))
  levels = np.where(BITS == 2, 4, 2).astype(np.int32)
  return qj.Codebook(centers, levels)  # pyright: ignore


def learners(names=("a",), books=None, **shape) -> Learner:
  """Of all clients, in host memory."""
  params = {
    name: {"kernel": weights(seed=i, **shape)} for i, name in enumerate(names)
  }
  tree = {name: {"kernel": books or codebooks()} for name in names}
  return Learner(params, tree, {}, {}, (), ())


def state_of(clients, server=(), members=None) -> qj.SimulationState:
  members = np.arange(len(BITS)) if members is None else members
  round_: Any = np.int32(0)
  cohorts = {"clients": clients}, {"clients": members}
  return qj.SimulationState(server, *cohorts, round_, (), {}, ())  # pyright: ignore


def looked(made: records.Recorder, state) -> dict[str, Any]:
  (record,) = made.evaluated(lambda: state, 1, {})
  return record


def test_scores_are_percentiles_over_the_clients_that_have_one():
  scores = {
    "quantized": np.append(np.arange(101) / 100, [np.nan] * 9),
    "nobody's": np.full(110, np.nan),
  }
  (record,) = recorder(bits=np.full(3, 32)).evaluated(
    lambda: state_of(()), 3, scores
  )
  assert record == {
    "round": 3,
    "scores": {"quantized": [0.1, 0.25, 0.5, 0.75, 0.9]},
  }


def test_weights_are_those_of_the_first_client_of_the_lowest_precision():
  record = looked(recorder(), state_of(learners()))
  found = record["tensors"]["a/kernel"]
  own = weights()[CLIENT]
  assert record["client"] == CLIENT
  np.testing.assert_allclose(
    [found["low"], found["high"]], [own.min(), own.max()], rtol=1e-6
  )
  counts, _ = np.histogram(own, len(found["counts"]), (own.min(), own.max()))
  assert found["counts"] == counts.tolist()
  np.testing.assert_allclose(
    found["levels"], codebooks().centers[CLIENT, :2], rtol=1e-6
  )


def test_records_are_what_files_may_hold():
  record = looked(recorder(), state_of(learners()))
  assert records.RECORD("", json.loads(json.dumps(record))) == record


def test_of_many_tensors_the_first_the_middle_and_the_last_are_looked_at():
  record = looked(recorder(), state_of(learners("abcdefg")))
  assert list(record["tensors"]) == ["a/kernel", "d/kernel", "g/kernel"]
  record = looked(recorder(), state_of(learners("ab")))
  assert list(record["tensors"]) == ["a/kernel", "b/kernel"]


def test_of_large_tensors_a_sample_is_looked_at():
  state = state_of(learners(shape=(600, 512)))
  found = looked(recorder(), state)["tensors"]["a/kernel"]
  assert 2**15 < sum(found["counts"]) <= 2**16
  # Which is like the whole.
  own = weights(shape=(600, 512))[CLIENT]
  whole, _ = np.histogram(
    own, len(found["counts"]), (found["low"], found["high"])
  )
  share = np.array(found["counts"]) / sum(found["counts"])
  assert np.abs(share - whole / whole.sum()).max() < 0.005


def test_with_levels_for_each_channel_the_first_is_looked_at():
  centers = np.sort(weights(seed=1, shape=(SHAPE[1], 4)))
  levels = np.full((len(BITS), SHAPE[1]), 2, np.int32)
  books = qj.Codebook(centers, levels)  # pyright: ignore
  found = looked(recorder(), state_of(learners(books=books)))["tensors"]
  assert sum(found["a/kernel"]["counts"]) == SHAPE[0]
  np.testing.assert_allclose(
    found["a/kernel"]["levels"], centers[CLIENT, 0, :2], rtol=1e-6
  )


class Wrapped(NamedTuple):
  """A client's state in which the learner is a part of a part."""

  other: Any
  inner: Any


def test_a_learner_is_found_wherever_it_is_in_a_state():
  state = state_of(Wrapped((), Wrapped(np.zeros(len(BITS)), learners())))
  assert looked(recorder(), state) == looked(recorder(), state_of(learners()))


def test_where_all_share_a_model_it_is_the_servers_at_the_clients_levels():
  shared = {"a": {"kernel": jnp.asarray(weights(1)[0])}}

  def global_model(server, cohort):
    assert cohort == "clients"
    return server.params, {}, None

  clients = Levels({"a": {"kernel": codebooks()}}, ())
  state = state_of(clients, GlobalModel(shared, {}))
  record = looked(recorder(global_model=global_model), state)
  found = record["tensors"]["a/kernel"]
  own = weights(1)[0]
  np.testing.assert_allclose(
    [found["low"], found["high"]], [own.min(), own.max()], rtol=1e-6
  )
  np.testing.assert_allclose(
    found["levels"], codebooks().centers[CLIENT, :2], rtol=1e-6
  )
  # Some methods have no global model.
  assert "tensors" not in looked(recorder(), state)


@pytest.mark.parametrize("devices", [1, 4])
def test_states_on_devices_give_what_those_in_host_memory_do(devices):
  """And members may be in any order, with empty slots at the end."""
  order = np.array([5, 4, 3, 2, 1, 0, -1, -1])
  rows = np.maximum(order, 0)
  layout = resolve_layout("vmap", 1, len(order), devices=devices)
  host = learners("ab")
  placed = layout.place(jax.tree.map(lambda x: x[rows], host), DIVIDED)
  members = layout.place(jnp.asarray(order), DIVIDED)
  state = state_of(placed, layout.place(jnp.zeros(3), SAME), members)
  assert looked(recorder(), state) == looked(recorder(), state_of(host))


def test_a_client_of_another_process_is_not_looked_at():
  state = state_of(learners(), members=np.array([0, 1, 3, 4, 5, -1]))
  assert "tensors" not in looked(recorder(), state)


def test_without_quantized_clients_or_learners_there_are_no_weights():
  plain = recorder(bits=np.full(6, 32))
  assert "tensors" not in looked(plain, state_of(learners()))
  assert "tensors" not in looked(recorder(), state_of(np.zeros((6, 3))))


def test_broken_or_constant_weights_are_drawn_somehow():
  for value in (np.nan, 0.0, 2.0):
    own = learners()
    own.params["a"]["kernel"][:] = value
    found = looked(recorder(), state_of(own))["tensors"]["a/kernel"]
    assert found["low"] < found["high"]


@pytest.mark.parametrize(
  ("rounds", "eval_every"), [(1, 1), (40, 1), (1000, 1), (1003, 7)]
)
def test_weights_are_looked_at_no_more_often_than_can_be_shown(
  rounds, eval_every
):
  made = recorder(rounds=rounds, eval_every=eval_every)
  state = state_of(learners())
  evaluated = [r for r in range(1, rounds + 1) if r % eval_every == 0]
  evaluated = sorted({*evaluated, rounds})
  seen = [
    r for r in evaluated if "tensors" in made.evaluated(lambda: state, r, {})[0]
  ]
  assert seen[0] == evaluated[0] and seen[-1] == rounds
  assert min(len(evaluated), 25) <= len(seen) <= 52
  (record,) = made.begun(lambda: state)
  assert record["round"] == 0 and "tensors" in record


def test_what_is_not_wanted_is_not_looked_at():
  def state():
    raise AssertionError

  made = recorder(wanted=False)
  assert made.begun(state) == made.evaluated(state, 1, {}) == []
