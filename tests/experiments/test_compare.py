"""The command that compares methods, and its configs."""

import csv
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from configs import (
  compare_attacks,
  compare_compression,
  compare_digits,
  compare_images,
  compare_quantizers,
)
from quped_jax import methods
from quped_jax.experiment.comparison import plan, tune
from quped_jax.methods.wrappers import robust
from quped_jax.quantization import training_steps
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]


def test_the_config_of_digits_is_allowed(tmp_path):
  config = compare_digits.get_config().to_dict()
  planned = plan.make_runs(config, tmp_path)
  assert len(planned) >= 24
  losses = {
    run.row.method: run.settings.options().global_loss
    for run in planned
    if run.settings.method == "quped"
  }
  assert losses == {"quped_labels": "distill+labels", "quped": "distill"}
  assert len(tune.make_trials(config, tmp_path)) >= 8


@pytest.mark.slow
def test_the_config_of_attacks_has_all_methods_that_can_be_attacked(tmp_path):
  config = compare_attacks.get_config().to_dict()
  runs = [run.settings for run in plan.make_runs(config, tmp_path)]
  attacked = {s.method for s in runs if s.byzantine_clients == 2}
  assert attacked == set(methods.METHODS) - {"local", "fedbn"}
  assert attacked == {s.method for s in runs if not s.byzantine_clients}
  for s in runs:
    if s.aggregation != "mean":
      robust.check_robust(tiny.method_of(s.method), s.method, s.aggregation)
  refused = attacked - {s.method for s in runs if s.aggregation != "mean"}
  for name in refused:
    with pytest.raises(ValueError, match="aggregation="):
      robust.check_robust(tiny.method_of(name), name, "trimmed_mean")


def test_the_config_of_compression_has_each_method_as_it_is(tmp_path):
  config = compare_compression.get_config().to_dict()
  runs = [run.settings for run in plan.make_runs(config, tmp_path)]
  for method in ("fedavg", "quped"):
    kinds = {s.compression for s in runs if s.method == method}
    assert kinds == {"none", "qsgd", "topk", "sign"}


@pytest.mark.parametrize("name", ["digits", "quped", "mnist"])
def test_the_configs_of_quantizers_have_every_estimator(tmp_path, name):
  config = compare_quantizers.get_config(name).to_dict()
  runs = [run.settings for run in plan.make_runs(config, tmp_path)]
  quantized = {s.estimator for s in runs if s.quantized}
  assert quantized == set(training_steps.ESTIMATORS)
  assert {s.bits for s in runs} == {(1,), (2,), (32,)}
  assert {s.method for s in runs} == {"quped" if name == "quped" else "local"}
  assert len(tune.make_trials(config, tmp_path)) >= 8
  with pytest.raises(ValueError, match="name='nope': must be one of digits"):
    compare_quantizers.get_config("nope")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "femnist"])
def test_the_configs_of_images_are_allowed(tmp_path, name):
  config = compare_images.get_config(name).to_dict()
  planned = plan.make_runs(config, tmp_path)
  assert {run.settings.dataset for run in planned} == {name}
  assert {run.settings.method for run in planned} >= {"quped", "fedgkt"}
  assert {run.row.method for run in planned} >= {"quped", "quped_labels"}
  # Step sizes that were chosen on digits are not taken over.
  assert len({run.settings.learning_rate for run in planned}) == 1
  assert len(tune.make_trials(config, tmp_path)) >= 8


def test_an_unknown_config_of_images_is_an_error():
  with pytest.raises(ValueError, match="dataset='nope': must be one of mnist"):
    compare_images.get_config("nope")


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


@pytest.mark.slow
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

  other = (*compare, "--config.base.steps=1", "--config.seeds=0")
  done = command(*other)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert "2 of the 2 runs" in line and "steps is 2 there and 1 here" in line
  done = command(*other, "--restart")
  assert done.returncode == 0, done.stderr
  assert "2 of 2 runs to do" in done.stdout


@pytest.mark.parametrize(
  ("given", "rows"),
  [
    ("1,2", [(1, 2)]),
    ("1; 2", [(1,), (2,)]),
    ("32", [(32,)]),
    ("1,2,32;32", [(1, 2, 32), (32,)]),
  ],
)
@pytest.mark.parametrize(
  "module", [compare_digits, compare_attacks, compare_compression]
)
def test_commas_are_clients_in_turn_and_semicolons_rows(
  module, given, rows, monkeypatch
):
  args = ["compare", f"--config.bits={given}", "--config.methods=fedavg"]
  # Where the config library finds the fields.
  monkeypatch.setattr(sys, "argv", args)
  values = flags.FlagValues()
  config: Any = config_flags.DEFINE_config_dict(
    "config", module.get_config(), lock_config=True, flag_values=values
  )
  values(args)
  found = plan.make_rows(config.value.to_dict())
  assert [row.bits for row in found] == rows


@pytest.mark.slow
def test_a_config_file_that_fails_is_one_line(tmp_path):
  path = tmp_path / "dotted.py"
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n"
    "  return ConfigDict({'overrides': {'quped.v2': {'method': 'quped'}}})\n"
  )
  done = command(f"--config={path}", f"--workdir={tmp_path / 'results'}")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith(f"error: --config={path}: fails at line 3: ")
  assert "does not accept dots in field names" in line and "quped.v2" in line


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.methods=nope"], "error: methods='nope': must be one of"),
    # Each starts Python and imports JAX.
    pytest.param(
      ["--overrides=nope.json"], "nope.json", marks=pytest.mark.slow
    ),
    pytest.param(
      ["--config=configs/digits.py"],
      "error: config.base: must be given",
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ["--tune", "--grid=quped"],
      "error: --tune, --grid: must be one of them; --overrides takes the",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_mistake_is_one_line(tmp_path, args, message):
  workdir = tmp_path / "results"
  done = command(f"--workdir={workdir}", *args)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert message in line
  assert not workdir.exists()
