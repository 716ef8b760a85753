import csv
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import environment
from quped_jax.experiment.build_data import build_federation
from tests import tiny

QUIET = qj.Display(quiet=True)


def settings(**changes):
  values = {
    "dataset": "digits",
    "method": "fedavg",
    "clients": 3,
    "classes_per_client": 4,
    "bits": (2, 32),
    "hidden": (8, 8),
    "steps": 5,
    "rounds": 5,
    "eval_every": 2,
    "validation_fraction": 0.2,
    "strategy": "chunks",
  }
  return qj.Settings(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of five rounds, evaluated after every second and the last."""
  workdir = tmp_path_factory.mktemp("run")
  result = qj.run(settings(), workdir, display=QUIET)
  return result, workdir


def read(workdir, name):
  return json.loads((workdir / name).read_text())


def test_it_writes_six_files(finished):
  _, workdir = finished
  assert {
    "clients.csv", "config.json", "figures.jsonl", "identity.json",
    "metrics.jsonl", "summary.json",
  } <= {path.name for path in workdir.iterdir()}  # fmt: skip
  assert not list(workdir.glob("*.part"))


def test_the_configuration_makes_the_same_settings_again(finished):
  _, workdir = finished
  config = read(workdir, "config.json")
  assert config["momentum"] == 0.9 and config["quped"]["lambda_p"] == 0.5
  assert qj.Settings.from_dict(config).to_dict() == settings().to_dict()


def test_there_is_a_line_per_evaluated_round(finished):
  result, workdir = finished
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert [record["round"] for record in records] == [2, 4, 5]
  assert records == result.history
  for record in records:
    assert set(record) >= {
      "round", "loss", "test/global", "test/quantized",
      "validation/global", "validation/quantized",
    }  # fmt: skip


def test_clients_are_a_table(finished):
  result, workdir = finished
  with (workdir / "clients.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == [
    "client", "model", "bits", "model_bytes", "train_samples", "test_samples",
    "global", "quantized",
  ]  # fmt: skip
  assert [row["client"] for row in rows] == ["0", "1", "2"]
  assert [row["bits"] for row in rows] == ["2", "32", "2"]
  assert {row["model"] for row in rows} == {"mlp"}
  table = result.simulation.evaluate(result.state)["test"]
  for name in ("global", "quantized"):
    np.testing.assert_allclose(
      [float(row[name]) for row in rows], table[name], rtol=1e-6
    )
  federation = build_federation(settings())
  assert [int(row["train_samples"]) for row in rows] == (
    federation.train.count.tolist()
  )
  assert [int(row["test_samples"]) for row in rows] == (
    federation.test.count.tolist()
  )


def test_the_summary_says_how_good_and_how_dear_it_was(finished):
  result, workdir = finished
  summary = read(workdir, "summary.json")
  assert summary == json.loads(json.dumps(result.summary))
  assert summary["method"] == "fedavg" and summary["dataset"] == "digits"
  assert summary["seed"] == 0 and summary["rounds"] == 5
  assert summary["clients"] == 3 and summary["primary_variant"] == "quantized"
  table = result.simulation.evaluate(result.state)["test"]
  assert set(summary["accuracy"]) == {"global", "quantized"}
  for name, spread in summary["accuracy"].items():
    values = table[name].astype(np.float64)
    expected = {
      "mean": values.mean(),
      "std": values.std(),
      "worst": values.min(),
      "p10": np.percentile(values, 10),
      "best": values.max(),
    }
    assert set(spread) == set(expected)
    for key, value in expected.items():
      assert math.isclose(spread[key], value, rel_tol=1e-5), key
  timing = summary["timing"]
  assert timing["seconds_per_round"] > 0
  assert timing["compile_seconds"] > timing["seconds_per_round"]
  assert summary["memory"]["round_bytes"] > 0
  assert summary["environment"] == environment.here()
  # 64 pixels, 8, 8, 10 classes, with biases.
  size = 4 * ((64 * 8 + 8) + (8 * 8 + 8) + (8 * 10 + 10))
  assert summary["bytes_up"] == summary["bytes_down"] == size
  for row in summary["client_types"].values():
    assert row["bytes_up"] == row["bytes_down"] == size


def test_the_best_round_is_chosen_on_validation_data(finished):
  result, _ = finished
  summary, history = result.summary, result.history
  best = max(history, key=lambda record: record["validation/quantized"])
  assert summary["best_round"] == best["round"]
  mean = summary["accuracy_best_round"]["quantized"]["mean"]
  assert math.isclose(mean, best["test/quantized"], rel_tol=1e-6)
  oracle = max(history, key=lambda record: record["test/quantized"])
  assert summary["oracle_best"]["round"] == oracle["round"]
  mean = summary["oracle_best"]["accuracy"]["quantized"]["mean"]
  assert math.isclose(mean, oracle["test/quantized"], rel_tol=1e-6)


def test_a_run_is_the_same_again_and_another_with_another_seed(finished):
  first, _ = finished
  again = qj.run(settings(), display=QUIET)
  other = qj.run(settings(seed=1, rounds=1), display=QUIET)
  costs = ("timing", "memory")

  def results(result):
    kept = {k: v for k, v in result.summary.items() if k not in costs}
    return json.dumps(
      [kept, result.history, result.figure_records, result.clients]
    )

  assert results(again) == results(first)
  assert other.history[0]["loss"] != first.history[0]["loss"]


@pytest.mark.slow
def test_local_training_sends_nothing_and_has_a_fine_tuning_phase(capsys):
  changes = {
    "method": "local",
    "rounds": 4,
    "finetune_at": 2,
    "eval_every": 1,
    "validation_fraction": 0.0,
    "finetune_centers_learning_rate": 1e-2,
  }
  result = qj.run(settings(**changes))
  summary = result.summary
  assert summary["bytes_up"] == summary["bytes_down"] == 0
  assert summary["accuracy_best_round"] is None
  assert summary["primary_variant"] == "quantized"
  state = result.state.clients[tiny.COHORT]
  assert state.assignments is not None
  for i, levels in enumerate([4, 64, 4]):
    kernel = np.asarray(state.params["hidden_1"]["kernel"][i])
    assert len(np.unique(kernel)) <= levels
  # One program for each phase.
  assert result.simulation.program.compilations == 2
  # From then on the personalized model is the quantized one.
  for record in result.history[2:]:
    assert record["test/personalized"] == record["test/quantized"]
  # Off a terminal the default display prints lines.
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 6
  assert lines[0].startswith("local on digits: 3 clients (2, 32 bits), mlp, 4 ")
  assert lines[1].startswith("quantized in mlp: hidden_1/kernel; ")
  assert lines[-1].startswith("local: round 4/4: personalized ")


def test_a_quiet_run_prints_nothing(capsys):
  qj.run(settings(rounds=1, bits=(32,)), display=QUIET)
  captured = capsys.readouterr()
  assert captured.out == captured.err == ""


@pytest.mark.slow
def test_a_run_can_start_from_a_state(finished):
  result, _ = finished
  simulation = result.simulation
  start = simulation.init(0)
  for _ in range(5):
    start, _ = simulation.run_round(start)
  more = qj.run(settings(rounds=6), state=start, display=QUIET)
  assert int(more.state.round) == 6
  assert [record["round"] for record in more.history] == [6]
  assert more.history[0]["loss"] < result.history[0]["loss"]
  with pytest.raises(ValueError, match="rounds=6: must be more than 6"):
    qj.run(settings(rounds=6), state=more.state, display=QUIET)


@pytest.mark.slow
def test_synthetic_data_runs_like_any_other():
  changes = {
    "dataset": "synthetic", "method": "local", "rounds": 3, "bits": (32,),
    "learning_rate": (0.2,),
  }  # fmt: skip
  result = qj.run(settings(**changes), display=QUIET)
  assert result.simulation.program.compilations == 1
  assert result.summary["accuracy"]["personalized"]["mean"] > 0.6


def test_a_client_that_is_not_there_is_an_error(finished):
  result, _ = finished
  with pytest.raises(ValueError, match="client_id=99: must be from 0 to"):
    qj.client_state(result.state, 99)


@pytest.mark.filterwarnings("ignore:round .* diverged")
@pytest.mark.parametrize("method", ["local", "fedavg"])
def test_a_run_whose_clients_all_diverge_ends(method):
  changes = {"learning_rate": (1e6,), "bits": (32,), "method": method}
  with (
    pytest.raises(
      qj.DivergenceError,
      match="round 4: every client that took part diverged, clients 0, 1, 2, "
      r"in 3 rounds or more in a row; a smaller .* \(learning_rate=\(1000000",
    ),
  ):
    qj.run(settings(rounds=5, eval_every=2, **changes), display=QUIET)


@pytest.mark.slow
def test_a_client_that_diverges_is_named(capsys):
  changes = {"learning_rate": (0.1, 1e6), "bits": (32, 32), "method": "fedavg"}
  with (
    pytest.warns(UserWarning, match="round 2: client 1 diverged and the round"),
  ):
    result = qj.run(settings(rounds=4, eval_every=2, **changes))
  assert result.summary["diverged"] == [
    {"client": 1, "rounds": 4, "in_a_row": 4}
  ]
  assert [record["diverged"] for record in result.history] == [1, 1]
  assert [record["participants"] for record in result.history] == [2, 2]
  assert np.isfinite(result.history[-1]["loss"])
  out = capsys.readouterr().out
  assert "client 1 diverged; 4 of their rounds are undone, 3 or more" in out


@pytest.mark.slow
def test_a_client_that_diverges_can_end_the_run():
  changes = {"learning_rate": (0.1, 1e6), "bits": (32, 32), "method": "local"}
  with (
    pytest.raises(
      qj.DivergenceError, match="round 2: client 1 diverged, and on_divergence"
    ),
  ):
    qj.run(
      settings(rounds=4, eval_every=2, on_divergence="raise", **changes),
      display=QUIET,
    )


@pytest.mark.slow
def test_rounds_in_one_dispatch_change_nothing():
  given = tiny.make_settings(
    "quped", 3, bits=(1,), rounds=5, finetune_at=3, eval_every=4
  )
  federation = tiny.make_federation(tiny.COUNTS[:3])
  ends = []
  for at_once in (1, 4):
    result = qj.run(
      dataclasses.replace(given, rounds_per_dispatch=at_once),
      federation=federation,
      display=QUIET,
    )
    assert [record["round"] for record in result.history] == [4, 5]
    ends.append(result)
  assert ends[0].history == ends[1].history
  for x, y in zip(
    *(jax.tree.leaves(tiny.to_host(end.state).clients) for end in ends),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_computing_in_bfloat16_trains_parameters_of_float32():
  given = tiny.make_settings("quped", 3, bits=(2,), compute_dtype="bfloat16")
  federation = tiny.make_federation(tiny.COUNTS[:3])
  simulation, _, model = qj.build(given, federation=federation)
  state, metrics = simulation.run_round(simulation.init(0))
  assert np.isfinite(float(metrics["loss"]))
  assert jnp.bfloat16 not in [x.dtype for x in jax.tree.leaves(state.clients)]
  jaxpr = jax.make_jaxpr(lambda p, x: model.apply(p, {}, x, True)[0])(
    qj.client_state(state, 0).params, jnp.ones((2, 6))
  )
  assert "bf16" in str(jaxpr)


def test_a_type_that_a_model_cannot_compute_in_is_an_error():
  federation = tiny.make_federation(tiny.COUNTS[:3])
  given = tiny.make_settings("local", 3, compute_dtype="bfloat16")
  model = qj.create_model("mlp", tiny.CLASSES)
  with pytest.raises(ValueError, match="compute_dtype='bfloat16'.*given model"):
    qj.build(given, federation=federation, model=model)
  qj.register_model("plain", lambda classes, **_: model)
  other = dataclasses.replace(given, model="plain", hidden=())
  with pytest.raises(ValueError, match="compute_dtype='bfloat16'.*'plain'"):
    qj.build(other, federation=federation)
