"""`quped compare`: what is compared, from presets, files and names."""

import argparse
import csv
import sys
from typing import Any

import pytest

from quped_jax import cli
from quped_jax.commands import compare
from quped_jax.experiment import presets
from quped_jax.experiment.comparison import plan
from tests.commands.quped import in_process, mistake, quped


def comparison(*words: str) -> dict[str, Any]:
  parser = cli.Parser(prog="quped compare")
  compare.add_arguments(parser)
  args, left = parser.parse_known_args(words)
  return compare.comparison_of(
    argparse.Namespace(**{**vars(args), "settings": left})
  )


def test_a_preset_is_compared_as_it_is(tmp_path):
  given = presets.get("compare_digits")
  assert comparison("--preset=compare_digits") == given


def test_names_change_it(tmp_path):
  found = comparison(
    "--preset=compare_digits",
    "--methods=fedavg,local",
    "--bits=32; 1,2",
    "--seeds=3,4",
    "--clients=7",
    "--quped.lambda_p=0.2",
    "--tune.trials=2",
    "--tune.seeds=1,2",
  )
  runs = plan.make_runs(found, tmp_path)
  assert {run.row.method for run in runs} == {"fedavg", "local"}
  assert {run.settings.clients for run in runs} == {7}
  assert {run.settings.seed for run in runs} == {3, 4}
  assert {run.row.bits for run in runs if run.row.method == "local"} == {
    (32,), (1, 2)
  }  # fmt: skip
  assert found["base"]["quped"]["lambda_p"] == 0.2
  assert found["base"]["quped"]["global_loss"] == "distill+labels"
  assert (found["tune"]["trials"], found["tune"]["seeds"]) == (2, (1, 2))
  assert "spaces" in found["tune"]


def test_a_run_s_preset_is_what_all_runs_share(tmp_path):
  found = comparison("--preset=mnist", "--methods=quped", "--bits=2; 1")
  runs = plan.make_runs(found, tmp_path)
  assert [run.settings.bits for run in runs] == [(2,), (1,)]
  assert {run.settings.model for run in runs} == {"cnn1"}
  assert {run.settings.seed for run in runs} == {0}


def test_methods_alone_are_compared_in_full_precision(tmp_path):
  runs = plan.make_runs(comparison("--methods=local,fedavg"), tmp_path)
  assert [run.row.name for run in runs] == ["local_32", "fedavg_32"]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "methods: must be given, as by --methods=quped,local, or by the"),
    (["--preset=digits"], "methods: must be given, as by"),
    (["--methods=local,fedavgg"], "; did you mean 'fedavg'?"),
    (["--methods=local", "--method=local"], "--method: is called --methods"),
    (["--methods=local", "--seed=1"], "--seed: is called --seeds here"),
    (["--methods=local", "--seeds=x"], "seeds='x': must be whole numbers"),
    (["--methods=local", "--bits=9"], "bits=9: must be from 1 to 8"),
    (["--methods=local", "--tune.trails=1"], "--tune.trails: must be tune.tri"),
    (["--methods=local", "--tune.trials=x"], "tune.trials='x': must be a who"),
    (["--methods=local", "--tune.trials"], "--tune.trials: must have a value"),
    (
      ["--methods=local", "--tune", "--sensitivity=local"],
      "--tune, --sensitivity: must be one",
    ),
    (["--methods=local", "--overrides=nope.json"], "nope.json"),
    (["--methods=local", "--overrides="], "--overrides='': must not be empty"),
    (["--methods=local", "--grid="], "--grid='': must not be empty"),
    (["--methods=local", "--sensitivity", ""], "--sensitivity='': must not be"),
    (["--methods=local", "--bist=1"], "did you mean '--bits'?"),
    (["--config=nope.toml"], "config='nope.toml': must be a file"),
  ],
)
def test_a_mistake_is_one_line(args, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert message in mistake(capsys, "compare", *args)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_methods_are_compared_from_an_empty_folder(tmp_path):
  done = quped(
    "compare",
    "--methods=local,fedavg",
    "--clients=4",
    "--classes_per_client=4",
    "--rounds=2",
    "--steps=2",
    "--workdir=results",
    cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  with (tmp_path / "results" / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["method"] for row in rows] == ["local", "fedavg"]


def test_a_grid_is_of_one_method(tmp_path, monkeypatch):
  asked = []

  def row_grids(config, of, folder, **how):
    asked.append((config["bits"], of, folder, how))
    return {}

  monkeypatch.setattr(compare.row_grids, "row_grids", row_grids)
  grid = "quped:learning_rate,quped.lambda_p"
  args = "--preset=compare_digits", "--bits=2", f"--grid={grid}", "--quiet"
  assert in_process("compare", *args, f"--workdir={tmp_path}") == 0
  assert asked == [("2", grid, tmp_path, {"restart": False, "quiet": True})]


def test_without_matplotlib_nothing_is_varied(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  args = "--preset=compare_digits", "--sensitivity=quped"
  said = mistake(capsys, "compare", *args, f"--workdir={tmp_path}")
  assert said.startswith("figures need matplotlib: pip install")
