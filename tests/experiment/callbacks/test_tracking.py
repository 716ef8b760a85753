"""What callbacks that write to trackers have in common."""

import math
import pathlib

import pytest

import quped_jax as qj
from quped_jax.experiment.callbacks import tracking
from quped_jax.experiment.changes import flatten
from tests.experiment.callbacks import told


def test_an_absent_package_is_an_error_that_says_what_to_install():
  message = r"TensorBoard needs .*'not_there'.*pip install 'quped_jax\[some\]'"
  with pytest.raises(ImportError, match=message):
    tracking.needed("not_there", "some", "TensorBoard")


def test_scalars_are_grouped_and_finite():
  evaluation = told.evaluation(
    3, metrics={"round": 3, "loss": math.nan, **told.METRICS, "diverged": 1.0}
  )
  assert tracking.scalars(evaluation) == {
    "train/loss": 1.0,
    "train/diverged": 1.0,
    "test/quantized": 0.5,
    "test/global": 0.255,
    "cost/seconds_per_round": 0.25,
    "cost/bytes_up": 3e6,
    "cost/bytes_down": 6e6,
  }
  evaluation = evaluation._replace(seconds_per_round=math.nan)
  assert "cost/seconds_per_round" not in tracking.scalars(evaluation)


def test_the_config_has_the_options_of_the_method_that_runs_alone():
  settings = qj.Settings(method="quped", bits=(1, 2), quped={"lambda_p": 0.3})
  config = tracking.config(settings)
  assert config["bits"] == (1, 2) and config["quped"]["lambda_p"] == 0.3
  assert not {"pfedme", "method_options"} & set(config)
  flat = flatten(config)
  assert flat["quped.lambda_p"] == 0.3 and flat["rounds"] == settings.rounds


def test_results_are_the_numbers_of_a_summary():
  found = tracking.results(told.end())
  assert found == {"rounds": 4.0, "accuracy.quantized.mean": 0.5}
  assert tracking.results(told.end("error")) == {}


def test_a_run_is_called_by_its_folder_or_method():
  assert tracking.name_of(told.start(pathlib.Path("a/seed=1"))) == "seed=1"
  assert tracking.name_of(told.start()) == "quped"
  assert tracking.name_of(told.start(pathlib.Path("."))) == "quped"


def test_without_a_workdir_a_place_must_be_given(tmp_path):
  start = told.start(tmp_path)
  assert tracking.place("path", None, start, "x.csv") == tmp_path / "x.csv"
  given = tracking.place("path", "y.csv", told.start(), "x.csv")
  assert given == pathlib.Path("y.csv")
  with pytest.raises(ValueError, match="path=None: must be given for a run wi"):
    tracking.place("path", None, told.start(), "x.csv")


def test_the_id_of_a_run_is_kept_for_when_it_goes_on(tmp_path):
  first = tracking.Kept(told.start(tmp_path), "id")
  assert first.read() is None
  first.write("abc")
  assert tracking.Kept(told.start(tmp_path, 2), "id").read() == "abc"
  # A run that begins anew is another one.
  assert tracking.Kept(told.start(tmp_path), "id").read() is None
  nowhere = tracking.Kept(told.start(None, 2), "id")
  nowhere.write("abc")
  assert nowhere.read() is None
