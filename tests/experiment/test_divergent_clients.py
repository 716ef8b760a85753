"""Clients that diverge in a run change nothing for the others."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny

QUIET = qj.Display(quiet=True)
LONG = os.environ.get("QUPED_LONG_TESTS") == "1"


def test_a_server_whose_step_is_not_finite_ends_the_run(monkeypatch):
  """It names the round in which it happened, not the one of the check."""
  entry = qj.methods.get_method("fedavg")

  def make(*args):
    method = entry.make(*args)

    def server_update(server, aggregates, context):
      new = method.server_update(server, aggregates, context)
      bad = context.round >= 1
      model = jax.tree.map(lambda x: jnp.where(bad, x / 0.0, x), new.model)
      return new._replace(model=model)

    return method.replace(server_update=server_update)

  monkeypatch.setitem(qj.methods.METHODS, "fedavg", entry._replace(make=make))
  with (
    pytest.raises(
      qj.DivergenceError,
      match="round 2: what the server made.*fedavg.server_learning_rate=1.0",
    ),
  ):
    run("fedavg", 0.05, rounds=3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:round .* diverged")
@pytest.mark.parametrize(
  ("method", "field", "rate"),
  [
    ("fedavg", "server_learning_rate", 1e4),
    ("scaffold", "server_learning_rate", 1e30),
    ("pfedme", "beta", 1e4),
    ("fedgen", "generator_learning_rate", 1e4),
  ],
)
def test_clients_are_not_blamed_for_the_servers_step(method, field, rate):
  options = {method: {field: rate}}
  with pytest.raises(qj.DivergenceError, match="every client") as error:
    run(method, 0.05, rounds=6, eval_every=1, method_options=options)
  assert "a step of the server was" in str(error.value)
  assert f"a smaller {method}.{field}={rate} may help" in str(error.value)
  assert "(learning_rate=" not in str(error.value)


@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_the_server_is_not_blamed_for_the_clients_steps():
  with pytest.raises(qj.DivergenceError, match="every client") as error:
    run("fedavg", 1e6, rounds=4, others=1e6)
  assert "server" not in str(error.value)


@pytest.mark.filterwarnings("ignore:round .* diverged")
@pytest.mark.parametrize("eval_every", [1, 6])
def test_when_one_looks_does_not_decide_when_a_run_ends(eval_every, tmp_path):
  """A client that diverges while alone in some rounds does not end the run."""
  trace = tmp_path / "trace.csv"
  there = [2, 2, 2, 0, 2, 1]
  lines = [f"{r},{c}" for r, c in enumerate(there)]
  trace.write_text("\n".join(["round,client", *lines]))
  result = run(
    "fedavg", 1e6, 6, participation_trace=str(trace), eval_every=eval_every
  )
  assert result.summary["diverged"] == [
    {"client": 2, "rounds": 4, "in_a_row": 4}
  ]


HOW = {
  "vmap": {"strategy": "vmap"},
  "chunks": {"strategy": "chunks", "chunk_size": 2},
  "dispatch": {"strategy": "dispatch", "chunk_size": 2},
  "devices": {"devices": 2},
  "host": {"client_state": "host", "clients_per_block": 2},
}


def run(method, bad, rounds=3, others=0.05, **changes):
  """A run of 5 clients, of which client 2 has a step size of its own."""
  rates = [others] * 5
  rates[2] = bad
  given = tiny.make_settings(
    method,
    5,
    **{"bits": (32,) * 5, "rounds": rounds, "eval_every": rounds, **changes},
  )
  given = dataclasses.replace(given, learning_rate=tuple(rates))
  return qj.run(
    given, federation=tiny.make_federation(tiny.COUNTS[:5]), display=QUIET
  )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:round .* diverged")
@pytest.mark.parametrize(
  "how",
  [
    "chunks",
    "host",
    *(
      pytest.param(how, marks=pytest.mark.long)
      for how in ("vmap", "dispatch", "devices")
    ),
  ],
)
def test_a_clients_round_that_is_undone_leaves_it_as_it_was(how):
  end = run("fedavg", 1e6, **HOW[how])
  start = qj.build(
    tiny.make_settings("fedavg", 5, bits=(32,) * 5, **HOW[how]),
    federation=tiny.make_federation(tiny.COUNTS[:5]),
  )[0].init(0)
  assert end.summary["diverged"] == [{"client": 2, "rounds": 3, "in_a_row": 3}]
  for x, y in zip(
    jax.tree.leaves(qj.client_state(start, 2)),
    jax.tree.leaves(qj.client_state(end.state, 2)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
  assert int(end.state.round) == 3
  record = end.history[-1]
  assert record["participants"] == 4 and record["diverged"] == 1
  assert np.isfinite(record["loss"])
  for x in jax.tree.leaves(end.state.server):
    assert np.all(np.isfinite(np.asarray(x, np.float64)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_a_client_that_diverges_is_as_one_that_is_absent(tmp_path):
  trace = tmp_path / "trace.csv"
  lines = [f"{r},{c}" for r in range(3) for c in range(5) if c != 2]
  trace.write_text("\n".join(["round,client", *lines]))
  undone = run("fedavg", 1e6)
  absent = run("fedavg", 0.05, participation_trace=str(trace))
  for x, y in zip(
    jax.tree.leaves(undone.state.server),
    jax.tree.leaves(absent.state.server),
    strict=True,
  ):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_limit_that_is_given_holds_from_the_first_round():
  with (
    pytest.raises(qj.DivergenceError, match="clients 0, 1, 2, 3, 4"),
  ):
    run("fedavg", 0.05, max_message_norm=1e-6)


# One client of fifty.

FIFTY = {
  "dataset": "digits",
  "clients": 50,
  "bits": (32,) * 50,
  "shared_learning_rate": 0.05,
  "devices": 1,
  "strategy": "vmap",
}


def one_of_fifty(method, bad=None, **changes):
  """A run in which the last client has this step size, or never takes part."""
  rates = [0.05] * 49 + [0.05 if bad is None else bad]
  values = {**FIFTY, "method": method, "learning_rate": tuple(rates), **changes}
  return qj.run(qj.Settings(**values), display=QUIET)


def write_trace(path, rounds):
  lines = [f"{r},{c}" for r in range(rounds) for c in range(49)]
  path.write_text("\n".join(["round,client", *lines]))
  return str(path)


def compare_accuracies(method, tmp_path, **changes):
  """Accuracies of the global model, with the client and without it."""
  size = {"rounds": 10, "steps": 20, "hidden": (32, 32), **changes}
  size["eval_every"] = size["rounds"]
  trace = write_trace(tmp_path / "trace.csv", size["rounds"])
  without = one_of_fifty(method, **size, participation_trace=trace)
  wanted = without.summary["accuracy"]["global"]["mean"]
  for bad in (10.0, 1e3, 1e6):
    found = one_of_fifty(method, bad, **size).summary["accuracy"]["global"]
    yield bad, found["mean"], wanted


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_one_of_fifty_that_diverges_leaves_the_global_model_as_good(tmp_path):
  for bad, found, wanted in compare_accuracies("fedavg", tmp_path):
    assert wanted > 0.7
    assert abs(found - wanted) <= 0.01, bad


@pytest.mark.skipif(not LONG, reason="84 federations of 50 take 20 minutes")
@pytest.mark.filterwarnings("ignore:round .* diverged")
@pytest.mark.parametrize("partition", ["iid", "pathological"])
@pytest.mark.parametrize(
  "method",
  ["fedavg", "fedprox", "per_fedavg", "pfedme", "ditto", "fml", "quped"],
)
def test_so_does_one_under_any_method_in_long_runs(method, partition, tmp_path):
  size = {"rounds": 30, "steps": 40, "hidden": (64, 64), "partition": partition}
  for seed in range(3):
    for bad, found, wanted in compare_accuracies(
      method, tmp_path, **size, seed=seed
    ):
      print(f"{method} {partition} {seed} {bad}: {found:.4f} {wanted:.4f}")
      assert abs(found - wanted) <= 0.01, (seed, bad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_one_of_fifty_that_diverges_changes_no_bit_of_the_others():
  size = {"rounds": 3, "steps": 5, "eval_every": 3, "hidden": (16,)}
  good = one_of_fifty("local", **size)
  for bad in (10.0, 1e3, 1e6):
    wrong = one_of_fifty("local", bad, **size)
    # At step size 10, so few steps of so small a network stay bounded.
    if bad > 10:
      assert [x["client"] for x in wrong.summary["diverged"]] == [49]
    for i in range(49):
      for x, y in zip(
        jax.tree.leaves(qj.client_state(good.state, i)),
        jax.tree.leaves(qj.client_state(wrong.state, i)),
        strict=True,
      ):
        np.testing.assert_array_equal(x, y)
    assert good.clients[:49] == wrong.clients[:49]
