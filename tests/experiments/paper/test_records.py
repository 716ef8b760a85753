"""What was found is kept in small files, and read back."""

import numpy as np
import pytest

import quped_jax as qj
from experiments.paper.records import Key, Record, Store, digest
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished

KEY = Key("a part", Row("quped", (1, 32)), 3)
RECORD = Record(
  "0123",
  Finished(
    {"primary_variant": "quantized"},
    np.array([0.5, np.nan]),
    [{"round": 1.0, "test/quantized": 0.25}],
  ),
  (20, 0),
  ("mlp@1", "mlp@32"),
  1234.5,
)


def test_a_run_is_read_as_it_was_kept(tmp_path):
  Store(tmp_path / "cpu").add(KEY, RECORD)
  store = Store(tmp_path / "cpu")
  (found,) = store.runs.items()
  key, record = found
  assert key == KEY
  np.testing.assert_array_equal(record.results.scores, RECORD.results.scores)
  assert record._replace(finished=None) == RECORD._replace(finished=None)
  assert record.results.history == RECORD.results.history


def test_a_run_that_diverged_is_kept_as_one(tmp_path):
  Store(tmp_path).add(KEY, RECORD._replace(finished=None))
  assert Store(tmp_path).runs[KEY].finished is None


def test_a_run_replaces_an_earlier_one(tmp_path):
  store = Store(tmp_path)
  store.add(KEY, RECORD)
  store.add(KEY, RECORD._replace(settings="4567"))
  assert [x.settings for x in Store(tmp_path).runs.values()] == ["4567"]


def test_a_file_of_something_else_is_named(tmp_path):
  (tmp_path / "runs.jsonl").write_text('{"part": ""}\n')
  with pytest.raises(ValueError, match="runs.jsonl: .*line 1.*must be given"):
    Store(tmp_path)


def test_a_digest_differs_if_results_could():
  base = qj.Settings()
  assert digest(base) == digest(qj.Settings(data_dir="elsewhere"))
  assert digest(base) == digest(qj.Settings(figures=False))
  assert digest(base) != digest(qj.Settings(rounds=3))
