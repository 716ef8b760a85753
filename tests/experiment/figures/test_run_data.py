"""Figures are drawn of the files that a run left."""

import json
import types
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
  "matplotlib", reason="the run that these tests make up needs matplotlib"
)

from quped_jax.experiment import metrics  # noqa: E402
from quped_jax.experiment.figures import run_data  # noqa: E402
from tests.experiment.figures import made  # noqa: E402


def result_of(run) -> Any:
  """The `Result` of a run."""
  columns = run.clients.items()
  rows = [
    {name: values[i].item() for name, values in columns}
    for i in range(made.CLIENTS)
  ]
  return types.SimpleNamespace(
    summary=run.summary,
    clients=rows,
    history=run.history,
    figure_records=run.records,
  )


def leave(run, workdir):
  """Writes the files of a run."""
  result, writer = result_of(run), metrics.Writer(workdir)
  writer.start({}, {})
  for record in run.history:
    writer.metrics(record)
  whole = {"client", "bits", "train_samples", "test_samples"}
  writer.clients(
    [
      {name: int(x) if name in whole else x for name, x in row.items()}
      for row in result.clients
    ]
  )
  writer.figures(run.records)
  writer.summary(run.summary)


def assert_same(a, b):
  assert (a.summary, a.history, a.records) == (b.summary, b.history, b.records)
  assert a.clients.keys() == b.clients.keys()
  for name, values in a.clients.items():
    np.testing.assert_array_equal(values, b.clients[name])


def test_files_and_result_say_the_same(tmp_path):
  run = made.run()
  run.clients["global"][3] = np.nan
  leave(run, tmp_path)
  assert_same(run_data.read(tmp_path), run)
  assert_same(run_data.of_result(result_of(run)), run)


def test_a_run_may_have_recorded_nothing(tmp_path):
  leave(made.run()._replace(records=[]), tmp_path)
  assert run_data.read(tmp_path).records == []


def test_curves_are_in_percent_from_the_first_evaluation_on():
  run = made.run(first=3)
  rounds, means = run.curve("global")
  assert rounds.tolist() == list(range(3, 13))
  np.testing.assert_allclose(means[-1], 80.0)
  rounds, spread = run.spread("global")
  assert rounds.tolist() == list(range(3, 13))
  np.testing.assert_allclose(spread[-1], [70, 75, 80, 85, 90])
  rounds, spread = run._replace(records=[]).spread("global")
  assert not rounds.size and not spread.size


def test_what_was_not_finite_is_a_gap():
  run = made.run()
  run.history[1]["test/global"] = None
  assert np.isnan(run.curve("global")[1]).tolist() == [False, True] + 10 * [
    False
  ]


def test_the_primary_variant_comes_first():
  assert made.run().variants == ["quantized", "personalized", "global"]
  assert made.run().title == "QuPeD, 1, 2, 32 bits"
  assert made.run().axis("global") == "accuracy of the global model, %"
  assert made.run(score="r2").axis() == "R2"


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("summary.json", "{}", "method: must be given"),
    ("summary.json", None, "No such file"),
    ("clients.csv", "client\n0\n", "must have the columns"),
    ("metrics.jsonl", "", "it is empty"),
    ("metrics.jsonl", '{"round": "x"}', "must be a finite number"),
    ("figures.jsonl", '{"round": 1}', "scores: must be given"),
    (
      "figures.jsonl",
      json.dumps({"round": 1, "scores": {"global": [0.5]}}),
      "must be a list of 5 entries",
    ),
  ],
)
def test_a_file_that_says_something_else_is_named(
  tmp_path, name, text, message
):
  leave(made.run(), tmp_path)
  if text is None:
    (tmp_path / name).unlink()
  else:
    (tmp_path / name).write_text(text)
  with pytest.raises(
    ValueError, match=f"{name}: must be that of a .*{message}"
  ):
    run_data.read(tmp_path)
