"""The comparison: its plan, what is run, statistics, tables and tuning."""

import copy
import csv
import io
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import quped_jax as qj
from configs import compare_digits, compare_images
from quped_jax.experiment.client_types import model_bytes
from quped_jax.experiment.comparison import (
  figures,
  plan,
  report,
  runs,
  statistics,
  tables,
  tune,
)
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.metrics import Writer
from tests.tiny import quick_compilation

ROOT = pathlib.Path(__file__).parents[2]


def make_config(**changes) -> dict[str, Any]:
  """A comparison of small runs; `base` changes some settings."""
  config = compare_digits.get_config().to_dict()
  config["base"] |= {
    "clients": 6,
    "held_out_clients": 2,
    "public_size": 20,
    "rounds": 2,
    "steps": 2,
    "eval_every": 1,
    "hidden": (8, 8),
    "devices": 1,
    **changes.pop("base", {}),
  }
  config["methods"] = ("local", "fedavg")
  # What the configuration was tuned to, and from, is its own affair.
  config["overrides"] = {}
  config["tune"]["spaces"]["local"] = {"learning_rate": (0.02, 0.05, 0.1, 0.2)}
  config["tune"] |= {"trials": 2, "rounds": 2, **changes.pop("tune", {})}
  return {**config, **changes}


class Stub:
  """Leaves what `qj.run` leaves, and remembers what it was asked to run.

  Args:
    validation: `settings -> accuracy on validation data`.
    stop_after: the number of runs after which it is interrupted.
  """

  def __init__(self, validation=lambda settings: 0.5, stop_after=None):
    self.settings: list[qj.Settings] = []
    self.folders: list[pathlib.Path] = []
    self._validation = validation
    self._stop_after = stop_after

  def __call__(self, settings, folder, *, display, resume):
    del display, resume
    writer = Writer(folder)
    writer.start(settings.to_dict())
    if len(self.folders) == self._stop_after:
      raise KeyboardInterrupt
    self.settings.append(settings)
    self.folders.append(folder)
    accuracy = np.linspace(0.5, 0.9, settings.clients) + 0.01 * settings.seed
    if settings.method == "fedavg":
      accuracy = accuracy + 0.1
    for round_ in range(1, settings.rounds + 1):
      writer.metrics(
        {
          "round": round_,
          "test/quantized": accuracy.mean(),
          "validation/quantized": self._validation(settings),
        }
      )
    writer.clients(
      [{"client": i, "quantized": x} for i, x in enumerate(accuracy)]
    )
    writer.summary(make_summary(settings, accuracy))


def make_summary(settings, accuracy) -> dict[str, Any]:
  spread = {
    "mean": float(accuracy.mean()),
    "worst": float(accuracy.min()),
    "p10": float(np.percentile(accuracy, 10)),
  }
  sent = 0 if settings.method == "local" else 1000
  held_out = {} if settings.method == "local" else {"quantized": spread}
  return {
    "primary_variant": "quantized",
    "accuracy": {"quantized": spread},
    "held_out_clients": held_out,
    "gradients": 4,
    "clients": settings.clients,
    "clients_per_round": settings.clients_per_round or settings.clients,
    "bytes_up": sent,
    "bytes_down": 2 * sent,
    "timing": {
      "seconds_per_round": 0.1,
      "compile_seconds": 0.0,
      "total_seconds": 2.0,
    },
  }


def quiet_console():
  return rich.console.Console(file=io.StringIO(), width=120)


# The plan.


def test_every_method_runs_at_every_precision_from_every_seed(tmp_path):
  config = make_config(bits=("32", "1,2"), seeds=(3, 5))
  planned = plan.make_runs(config, tmp_path)
  assert [run.folder.relative_to(tmp_path).as_posix() for run in planned] == [
    f"runs/{method}_{bits}_seed{seed}"
    for seed in (3, 5)
    for method in ("local", "fedavg")
    for bits in ("32", "1-2")
  ]
  for run in planned:
    assert run.settings.method == run.row.method
    assert run.settings.bits == run.row.bits
    assert run.settings.clients == 6
  assert [run.settings.seed for run in planned] == [3] * 4 + [5] * 4


def test_the_config_of_digits_is_allowed(tmp_path):
  config = compare_digits.get_config().to_dict()
  assert len(plan.make_runs(config, tmp_path)) >= 24
  assert len(tune.make_trials(config, tmp_path)) >= 8


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "femnist"])
def test_the_configs_of_images_are_allowed(tmp_path, name):
  config = compare_images.get_config(name).to_dict()
  planned = plan.make_runs(config, tmp_path)
  assert {run.settings.dataset for run in planned} == {name}
  assert {run.settings.method for run in planned} >= {"quped", "fedgkt"}
  assert len(tune.make_trials(config, tmp_path)) >= 8


def test_an_unknown_config_of_images_is_an_error():
  with pytest.raises(ValueError, match="dataset='nope': must be one of mnist"):
    compare_images.get_config("nope")


def test_bits_and_methods_as_the_command_line_gives_them():
  assert plan.parse_bits("bits", (32, 1)) == ((32,), (1,))
  assert plan.parse_bits("bits", ("32", "1,2")) == ((32,), (1, 2))
  assert plan.parse_bits("bits", (32, (1, 2))) == ((32,), (1, 2))
  assert plan.parse_methods(("quped,local",)) == ("quped", "local")


def test_overrides_change_one_method_and_one_precision(tmp_path):
  overrides = {
    "quped": {"learning_rate": 0.2, "quped": {"lambda_p": 0.3}},
    "quped_1": {"quped": {"temperature": 2.0}},
  }
  config = make_config(
    methods=("quped", "local"), seeds=(0,), overrides=overrides
  )
  settings = {
    run.row.name: run.settings for run in plan.make_runs(config, tmp_path)
  }
  assert settings["quped_1"].learning_rate == (0.2,)
  assert settings["local_1"].learning_rate == (0.05,)
  options = {name: s.to_dict()["quped"] for name, s in settings.items()}
  assert options["quped_1"]["lambda_p"] == 0.3
  assert options["quped_1"]["temperature"] == 2.0
  assert options["quped_32"]["temperature"] == 3.0
  # What base sets stays.
  assert options["quped_1"]["global_loss"] == "distill+labels"


def test_a_variant_of_a_method_has_a_name_and_bits_of_its_own(tmp_path):
  variant = {
    "method": "fedavg",
    "bits": ("32",),
    "fedavg": {"server_optimizer": "momentum"},
  }
  config = make_config(
    methods=("fedavg", "fedavgm"), seeds=(0,), overrides={"fedavgm": variant}
  )
  planned = plan.make_runs(config, tmp_path)
  assert [run.row.name for run in planned] == [
    "fedavg_32",
    "fedavg_1",
    "fedavgm_32",
  ]
  assert planned[2].settings.method == "fedavg"
  assert planned[2].settings.options().server_optimizer == "momentum"
  assert planned[0].settings.options().server_optimizer == "sgd"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("fedavgg",)}, "methods='fedavgg': must be one of"),
    ({"methods": ()}, r"methods=\(\): must hold one"),
    ({"methods": ("local", "local")}, "methods='local': must be there once"),
    ({"seeds": ()}, r"seeds=\(\): must hold one"),
    ({"seeds": (1, 1)}, "seeds=1: must be there once"),
    ({"seeds": (0.5,)}, "seeds=0.5: must be whole"),
    ({"seeds": (-1,)}, "local_32: seed=-1: must be at least 0"),
    ({"bits": ()}, r"bits=\(\): must hold one"),
    ({"bits": ("9",)}, "bits=9: must be from 1 to 8"),
    ({"bits": ("one",)}, "bits='one': must be a precision"),
    ({"overrides": {"nope": {}}}, "overrides.nope: must be a method"),
    (
      {"base": {"client_types": "6*mlp@1"}, "bits": ("32", "1")},
      "bits=.*must have one entry with base.client_types=",
    ),
    (
      {"overrides": {"local": {"learnin_rate": 1.0}}},
      "local_32: learnin_rate=1.0: no such field; must be one of",
    ),
    (
      {"overrides": {"fedavg": {"fedavg": {"mu": 1.0}}}},
      "fedavg_32: fedavg.mu=1.0: no such option",
    ),
    (
      {"overrides": {"local": {"clients": 3}}},
      "overrides.local.clients=3: must be the same for all methods",
    ),
    ({"base": {"rounds": 0}}, "rounds=0: must be at least 1"),
  ],
)
def test_a_wrong_config_is_an_error_that_names_the_field(
  tmp_path, changes, message
):
  start = Stub()
  with pytest.raises(ValueError, match=message):
    report.compare(make_config(**changes), tmp_path, start, quiet_console())
  assert not start.folders


def test_a_config_of_something_else_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="config.methods: must be there"):
    plan.make_runs({"base": {}}, tmp_path)


def test_a_run_that_cannot_be_is_found_before_any_is_started(tmp_path):
  # Settings alone allow it: the data have too few samples.
  config = make_config(base={"clients": 5000})
  start = Stub()
  with pytest.raises(ValueError, match="clients"):
    report.compare(config, tmp_path, start, quiet_console())
  config = make_config(
    overrides={"fedavg": {"method": "fedavg", "shared_model": "cnn1"}}
  )
  with pytest.raises(ValueError, match="fedavg_32: .*averages weights"):
    report.compare(config, tmp_path, start, quiet_console())
  assert not start.folders


# What is run.


def run_stub(config, folder, **kwargs):
  start = Stub(**kwargs)
  lines = []
  planned = plan.make_runs(config, folder)
  runs.run_missing(planned, start, lines.append)
  return [path.name for path in start.folders], lines


def test_what_is_done_is_not_run_again(tmp_path):
  config = make_config(bits=("32",), seeds=(0, 1))
  first, lines = run_stub(config, tmp_path)
  assert first == [
    "local_32_seed0",
    "fedavg_32_seed0",
    "local_32_seed1",
    "fedavg_32_seed1",
  ]
  assert lines[0] == "4 of 4 runs to do"
  assert lines[1].startswith("[1/4] local, 32 bits, seed 0: 0 s; 0:00 elapsed")
  again, lines = run_stub(config, tmp_path)
  assert again == []
  assert lines == ["0 of 4 runs to do"]
  (tmp_path / "runs" / "fedavg_32_seed0" / "summary.json").unlink()
  assert run_stub(config, tmp_path)[0] == ["fedavg_32_seed0"]


def test_after_an_interruption_the_same_call_goes_on(tmp_path):
  config = make_config(bits=("32",), seeds=(0, 1))
  with pytest.raises(KeyboardInterrupt):
    run_stub(config, tmp_path, stop_after=2)
  assert run_stub(config, tmp_path)[0] == ["local_32_seed1", "fedavg_32_seed1"]


def test_other_settings_are_run_again(tmp_path):
  config = make_config(bits=("32",), seeds=(0,))
  run_stub(config, tmp_path)
  changed = copy.deepcopy(config)
  changed["overrides"] = {"fedavg": {"fedavg": {"server_learning_rate": 0.5}}}
  assert run_stub(changed, tmp_path)[0] == ["fedavg_32_seed0"]
  # Options of a method that does not run change nothing.
  changed["base"]["quped"]["lambda_p"] = 0.1
  assert run_stub(changed, tmp_path)[0] == []


@pytest.mark.parametrize(
  ("method", "base"),
  [("local", {"epochs": 2}), ("quped", {"budget": "gradients"})],
)
def test_steps_that_follow_from_others_are_recognized(tmp_path, method, base):
  config = make_config(methods=(method,), bits=("32",), seeds=(0,), base=base)
  (run,) = plan.make_runs(config, tmp_path)
  with quick_compilation():
    qj.run(run.settings, run.folder, display=qj.Display(quiet=True))
  summary = json.loads((run.folder / "summary.json").read_text())
  assert summary["steps"] != run.settings.steps
  assert runs.is_done(run)


def test_what_remains_is_estimated_by_row():
  one, two = Row("local", (32,)), Row("fedavg", (32,))
  left = [plan.Run(row, None, None, "") for row in (one, one, two)]  # pyright: ignore[reportArgumentType]
  assert runs.estimate({one: 3.0}, left) == 9.0
  assert runs.estimate({one: 3.0, two: 1.0}, left) == 7.0
  assert runs.minutes(187.4) == "3:07"


# Statistics.


def clients(seed, count=40):
  return np.random.default_rng(seed).uniform(0.6, 1.0, count)


def test_identical_runs_do_not_differ():
  own = {seed: clients(seed) for seed in range(3)}
  assert statistics.paired_difference(own, own) == (0.0, 0.0, 0.0)


def test_a_shift_is_found_through_the_spread_of_clients():
  other = {seed: clients(seed) for seed in range(3)}
  noise = np.random.default_rng(9)
  own = {s: x + 0.1 + noise.normal(0, 0.02, 40) for s, x in other.items()}
  difference = statistics.paired_difference(own, other)
  assert difference.mean == pytest.approx(0.1, abs=0.01)
  assert 0.08 < difference.low < difference.mean < difference.high < 0.12


def test_noise_of_clients_gives_an_interval_with_zero():
  # The same distribution twice: unpaired, so that the interval is wide.
  own = {seed: clients(seed) for seed in range(3)}
  other = {seed: clients(seed + 100) for seed in range(3)}
  difference = statistics.paired_difference(own, other)
  assert difference.low < 0 < difference.high
  # Clients of one seed: the spread of a mean of 40.
  single = statistics.paired_difference({0: own[0]}, {0: other[0]})
  expected = 2 * 1.96 * np.std(own[0] - other[0]) / np.sqrt(40)
  assert single.high - single.low == pytest.approx(expected, rel=0.15)


def test_seeds_that_disagree_widen_the_interval():
  other = {seed: clients(seed) for seed in range(3)}
  own = {seed: other[seed] + shift for seed, shift in enumerate((0, 0.1, 0.2))}
  difference = statistics.paired_difference(own, other)
  # Within each seed all clients agree.
  assert difference.mean == pytest.approx(0.1)
  assert difference.low < 0.04
  assert difference.high > 0.16


def test_clients_without_accuracy_are_left_out():
  other = {0: clients(0)}
  own = {0: other[0] + 0.1}
  own[0][3] = np.nan
  difference = statistics.paired_difference(own, other)
  assert difference == pytest.approx((0.1, 0.1, 0.1))


def test_differences_need_the_same_seeds_and_clients():
  with pytest.raises(ValueError, match=r"seeds=\[0\]: must be \[1\]"):
    statistics.paired_difference({0: clients(0)}, {1: clients(0)})
  with pytest.raises(ValueError, match="seed 0: must have 3 clients"):
    statistics.paired_difference({0: clients(0)}, {0: clients(0, 3)})


def test_size_of_a_model():
  model = qj.create_model("mlp", 10, features=(9, 7))
  params, stats = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 5))
  )
  rest = 5 * 9 + 7 * 10 + 9 + 7 + 10

  def size(bits, **kwargs):
    return model_bytes(params, stats, model.is_quantized, bits, **kwargs)

  assert size(32) == 4 * (rest + 63)
  # 63 bits are 8 bytes, and 1 bit has two levels.
  assert size(1) == 4 * rest + 8 + 2 * 4
  assert size(3) == 4 * rest + 24 + 8 * 4
  assert size(2, channelwise=True) == 4 * rest + 16 + 7 * 4 * 4
  statistics_of_norm = {"mean": jax.ShapeDtypeStruct((3,), jnp.float32)}
  more = model_bytes(params, statistics_of_norm, lambda p: False, 1)
  assert more == size(32) + 12


def test_size_is_of_the_variant_and_of_the_clients_in_turn():
  def size(method, bits):
    settings = qj.Settings(
      method=method, clients=5, hidden=(9, 7), bits=bits, public_size=20
    )
    federation = report.build_federation(settings)
    return report.client_model_bytes(settings, federation)

  full = size("fedavg", (32,))
  saved = 3 / 5 * (4 * 63 - 8 - 8)
  assert full - size("quped", (1, 32)) == pytest.approx(saved)
  # The server's network, 7 -> 256 -> 256 -> 10, goes with the client's.
  server = 7 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10
  assert size("fedgkt", (32,)) == full + 4 * server


# Tables.


def finished(seed, mean, *, sent=1000, primary_variant="quantized", shift=0.0):
  settings = qj.Settings(method="fedavg", rounds=2, seed=seed)
  accuracy = clients(seed) + shift
  summary = make_summary(settings, accuracy)
  summary["accuracy"]["quantized"]["mean"] = mean
  summary |= {"bytes_up": sent, "bytes_down": sent}
  if primary_variant != "quantized":
    summary["primary_variant"] = primary_variant
    summary["accuracy"][primary_variant] = summary["accuracy"]["quantized"]
    summary["held_out_clients"] = {"personalized": {"mean": 0.25}}
  history = [{"round": r, f"test/{primary_variant}": r / 10} for r in (1, 2)]
  return runs.Finished(summary, accuracy, history)


def make_results():
  first, second = Row("local", (32,)), Row("fedavg", (1, 2))
  return {
    first: {s: finished(s, m, sent=0) for s, m in ((0, 0.7), (1, 0.9))},
    second: {
      s: finished(s, m, primary_variant="global", shift=0.1)
      for s, m in ((0, 0.85), (1, 0.85))
    },
  }


def make_records():
  results = make_results()
  sizes = dict(zip(results, (4000.0, 1000.0), strict=True))
  return tables.make_records(results, sizes)


def test_a_row_is_of_the_headline_variant_over_seeds():
  first, second = make_records()
  assert (first["method"], first["bits"]) == ("local", "32")
  assert first["accuracy"] == pytest.approx(0.8)
  assert first["std"] == pytest.approx(np.sqrt(2) * 0.1)
  assert first["worst"] == pytest.approx(
    np.mean([clients(0).min(), clients(1).min()])
  )
  assert first["difference_mean"] is None
  assert second["variant"] == "global"
  assert second["difference_mean"] == pytest.approx(0.1)
  assert second["difference_low"] == pytest.approx(0.1)
  assert second["bytes"] == 2000
  assert second["model_bytes"] == 1000
  # They have no global variant of their own.
  assert second["held_out_clients"] == 0.25


def test_one_seed_has_no_standard_deviation():
  record = tables.row_record(Row("local", (32,)), {0: finished(0, 0.7)}, 1.0)
  assert record["std"] is None
  (shown,) = tables.cells([record], tables.columns("")[0])
  assert shown == ("70.0", False)


def test_the_best_of_a_column_is_bold():
  lines = tables.markdown_table(make_records()).splitlines()
  titles, _, first, second = (
    [cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]
  )
  first = dict(zip(titles, first, strict=True))
  second = dict(zip(titles, second, strict=True))
  assert first["accuracy"] == "80.0 (14.1)"
  assert second["accuracy"] == "**85.0 (0.0)**"
  assert (first["minus local 32"], second["minus local 32"]) == (
    "",
    "+10.0 [+10.0, +10.0]",
  )
  assert (first["KB sent"], second["KB sent"]) == ("**0**", "2")
  assert (first["model KB"], second["model KB"]) == ("4", "**1**")
  # Nobody is best where all are equal.
  assert first["grads"] == second["grads"] == "4"


def test_the_terminal_shows_the_same_table():
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=120, force_terminal=True)
  console.print(tables.terminal_table(make_records()))
  text = stream.getvalue()
  assert "\x1b[1m85.0 (0.0)\x1b[0m" in text
  assert "+10.0 [+10.0, +10.0]" in text


def test_csv_has_all_numbers_unrounded(tmp_path):
  records = make_records()
  tables.write(records, tmp_path)
  with (tmp_path / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["method"] for row in rows] == ["local", "fedavg"]
  assert float(rows[0]["std"]) == records[0]["std"]
  assert rows[0]["difference_mean"] == ""
  assert (tmp_path / "table.md").read_text() == tables.markdown_table(records)


# Figures.


def test_a_curve_is_over_rounds_and_over_all_that_was_sent():
  second = list(make_results().values())[1]
  rounds, accuracy, megabytes = figures.curve(second)
  assert rounds.tolist() == [1, 2]
  np.testing.assert_allclose(accuracy, [10.0, 20.0])
  np.testing.assert_allclose(megabytes, [0.002, 0.004])


def test_every_row_looks_different():
  rows = [Row(f"m{i}", bits) for i in range(24) for bits in ((32,), (1,))]
  looks = [tuple(style.values()) for style in figures.styles(rows).values()]
  assert len(set(looks)) == len(rows)


def test_figures_are_written(tmp_path):
  paths = figures.write(make_results(), tmp_path)
  assert len(paths) == 3
  for path in paths:
    assert path.stat().st_size > 9000


# Tuning.


def test_every_row_tries_the_same_number_of_settings(tmp_path):
  config = make_config(tune={"trials": 3, "seeds": (0, 1)})
  trials = tune.make_trials(config, tmp_path)
  assert [(t.row.name, t.number) for t in trials] == [
    (name, number)
    for name in ("local_32", "local_1", "fedavg_32", "fedavg_1")
    for number in range(3)
  ]
  for row in {trial.row for trial in trials}:
    tried = [tune.describe(t.settings) for t in trials if t.row == row]
    assert len(set(tried)) == 3
  assert all(len(trial.runs) == 2 for trial in trials)
  # The same again.
  assert tune.make_trials(config, tmp_path) == trials


def test_draws_are_points_of_the_grid():
  space = {"learning_rate": (0.1, 0.2), "quped": {"lambda_p": (0.3, 0.4)}}
  drawn = tune.draw("space", space, 4)
  assert drawn == [
    {"learning_rate": rate, "quped.lambda_p": share}
    for rate in (0.1, 0.2)
    for share in (0.3, 0.4)
  ]
  assert tune.unflatten(drawn[0]) == {
    "learning_rate": 0.1,
    "quped": {"lambda_p": 0.3},
  }
  assert tune.flatten(tune.unflatten(drawn[0])) == drawn[0]


def test_tuning_is_on_validation_data_alone(tmp_path):
  # Accuracy on test data is the same for all of a method's trials.
  start = Stub(lambda settings: 1.0 - abs(settings.learning_rate[0] - 0.1))
  config = make_config(
    methods=("fedavg",),
    bits=("1",),
    tune={"trials": 12, "seeds": (0, 1), "validation_fraction": 0.3},
  )
  chosen = tune.tune(config, tmp_path, start, lambda line: None)
  assert chosen["fedavg_1"]["learning_rate"] == 0.1
  assert len(start.settings) == 24
  for settings in start.settings:
    assert settings.validation_fraction == 0.3
    assert settings.rounds == settings.eval_every == 2
  written = json.loads((tmp_path / "tune.json").read_text())
  assert written["best"] == chosen
  assert written["budget"]["trials"] == 12
  for record in written["trials"]:
    rate = record["settings"]["learning_rate"]
    assert record["validation"] == pytest.approx(1.0 - abs(rate - 0.1))
    assert record["seconds"] == 4.0
  with (tmp_path / "tune.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert set(rows[0]) == {
    "method",
    "bits",
    "trial",
    "settings",
    "validation",
    "seconds",
  }
  assert rows[0]["settings"].startswith("fedavg.server_learning_rate=0.5")
  # What is chosen are overrides of a comparison.
  best = json.loads((tmp_path / "best.json").read_text())
  (run, _, _) = plan.make_runs({**config, "overrides": best}, tmp_path)
  assert run.settings.learning_rate == (0.1,)
  assert run.settings.validation_fraction == 0.0


def test_tuning_goes_on_where_it_stopped(tmp_path):
  config = make_config()
  with pytest.raises(KeyboardInterrupt):
    tune.tune(config, tmp_path, Stub(stop_after=3), lambda line: None)
  start = Stub()
  tune.tune(config, tmp_path, start, lambda line: None)
  assert len(start.folders) == 8 - 3


def test_a_trial_whose_training_failed_is_not_chosen(tmp_path):
  def validation(settings):
    return 0.1 if settings.learning_rate[0] == 0.2 else float("nan")

  config = make_config(methods=("local",), bits=("32",), tune={"trials": 4})
  chosen = tune.tune(config, tmp_path, Stub(validation), lambda line: None)
  assert chosen == {"local_32": {"learning_rate": 0.2}}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"trials": 5}, "tune.spaces.local: must have trials=5 settings at least"),
    ({"trials": 0}, "tune.trials=0: must be 1 or more"),
    ({"seeds": ()}, r"tune.seeds=\(\): must hold one"),
    ({"validation_fraction": 0.0}, "tune.validation_fraction=0.0: must be"),
    ({"spaces": {}}, "tune.spaces.local: must be there"),
    ({"spaces": {"local": {"learning_rate": 0.1}}}, "must be a tuple of the"),
    ({"spaces": {"local": {"rounds": (1, 2)}}}, "rounds: must be the same"),
    ({"spaces": {"local": {"rate": (1, 2)}}}, "local_32: rate=1: no such"),
  ],
)
def test_a_wrong_space_is_an_error(tmp_path, changes, message):
  start = Stub()
  with pytest.raises(ValueError, match=message):
    tune.tune(make_config(tune=changes), tmp_path, start)
  assert not start.folders


# The command.


def command(*args):
  return subprocess.run(
    [sys.executable, "-m", "experiments.compare", *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    # Half the time.
    env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
  )


def test_stubbed_comparison_writes_everything(tmp_path):
  console = quiet_console()
  config = make_config(bits=("32", "1"), seeds=(0, 1))
  records = report.compare(config, tmp_path, Stub(), console)
  assert [(r["method"], r["bits"]) for r in records] == [
    ("local", "32"),
    ("local", "1"),
    ("fedavg", "32"),
    ("fedavg", "1"),
  ]
  assert records[2]["difference_mean"] == pytest.approx(0.1)
  assert records[1]["difference_mean"] == 0.0
  assert records[0]["held_out_clients"] is None
  assert records[1]["model_bytes"] < records[0]["model_bytes"]
  for name in (
    "table.csv",
    "table.md",
    "accuracy_over_rounds.png",
    "accuracy_over_bytes.png",
    "accuracy_of_clients.png",
  ):
    assert (tmp_path / name).is_file()
    assert name in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_command_tunes_then_compares_then_has_nothing_to_do(tmp_path):
  small = (
    f"--workdir={tmp_path}",
    "--config.bits=32",
    "--config.base.clients=6",
    "--config.base.held_out_clients=2",
    "--config.base.rounds=2",
    "--config.base.steps=2",
    "--config.base.devices=1",
    "--config.tune.trials=1",
    "--config.tune.rounds=2",
  )
  done = command(*small, "--tune", "--config.methods=local")
  assert done.returncode == 0, done.stderr
  assert "1 of 1 runs to do" in done.stdout
  # The screen shows no accuracy on test data.
  assert "personalized" not in done.stdout
  best = tmp_path / "best.json"
  rate = json.loads(best.read_text())["local_32"]["learning_rate"]

  compare = (
    *small,
    "--config.methods=local,fedavg",
    "--config.seeds=0,1",
    f"--overrides={best}",
  )
  done = command(*compare)
  assert done.returncode == 0, done.stderr
  assert "fedavg, 32 bits, seed 1: round 2/2" in done.stdout
  assert "[4/4] fedavg, 32 bits, seed 1:" in done.stdout
  assert "minus local 32" in done.stdout
  tuned = tmp_path / "runs" / "local_32_seed1" / "config.json"
  assert json.loads(tuned.read_text())["learning_rate"] == [rate]
  with (tmp_path / "table.csv").open() as file:
    local, fedavg = csv.DictReader(file)
  run = tmp_path / "runs" / "fedavg_32_seed1"
  summary = json.loads((run / "summary.json").read_text())
  assert float(fedavg["bytes"]) == 2 * summary["bytes_up"]
  assert float(local["bytes"]) == 0
  assert float(fedavg["held_out_clients"]) > 0.1

  done = command(*compare)
  assert done.returncode == 0, done.stderr
  assert "0 of 4 runs to do" in done.stdout


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.methods=nope"], "error: methods='nope': must be one of"),
    (["--overrides=nope.json"], "nope.json"),
    (["--config=configs/digits.py"], "error: config.base: must be there"),
  ],
)
def test_a_mistake_is_one_line(tmp_path, args, message):
  workdir = tmp_path / "results"
  done = command(f"--workdir={workdir}", *args)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert message in line
  assert not workdir.exists()
