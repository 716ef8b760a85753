"""MLflow with its file store and its own client."""

import pytest

import quped_jax as qj
from tests.experiment.callbacks import told

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")


@pytest.fixture
def store(tmp_path, monkeypatch):
  """A client of a store in a folder."""
  # It takes no server, and MLflow asks to be told that this is meant.
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  return mlflow.MlflowClient(tracking_uri=(tmp_path / "store").as_uri())


def make(tmp_path, **options):
  uri = (tmp_path / "store").as_uri()
  return qj.callbacks.MLflow("mine", tracking_uri=uri, **options)


def runs(store):
  experiment = store.get_experiment_by_name("mine")
  return store.search_runs([experiment.experiment_id])


@pytest.mark.slow
def test_a_run_has_parameters_metrics_and_an_end(store, tmp_path):
  (tmp_path / "seed=1").mkdir()
  callback = make(tmp_path, tags={"of": "a test"})
  told.play(callback, tmp_path / "seed=1", range(1, 4), told.end())
  (run,) = runs(store)
  assert run.info.run_name == "seed=1" and run.info.status == "FINISHED"
  assert run.data.params["method"] == "quped"
  assert float(run.data.params["quped.lambda_p"]) > 0
  history = store.get_metric_history(run.info.run_id, "test/quantized")
  assert {x.step: x.value for x in history} == dict.fromkeys((1, 2, 3), 0.5)
  assert run.data.metrics["train/loss"] == 1.0
  assert run.data.metrics["summary/accuracy.quantized.mean"] == 0.5
  assert run.data.tags["of"] == "a test"
  assert run.data.tags["reason"] == "finished"


@pytest.mark.slow
def test_a_run_goes_on_and_one_that_begins_anew_is_another(store, tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  told.play(make(tmp_path), folder, range(1, 3), told.end("interrupted"))
  (run,) = runs(store)
  assert run.info.status == "KILLED"
  told.play(make(tmp_path), folder, range(3, 5), told.end())
  (run,) = runs(store)
  assert run.info.status == "FINISHED"
  history = store.get_metric_history(run.info.run_id, "train/loss")
  assert [x.step for x in history] == [1, 2, 3, 4]
  told.play(make(tmp_path), folder, range(1, 2), told.end("diverged"))
  assert sorted(x.info.status for x in runs(store)) == ["FAILED", "FINISHED"]
