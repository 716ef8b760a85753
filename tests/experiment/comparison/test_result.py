"""What a comparison came to."""

import csv
import io
import sys

import numpy as np
import pytest

from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.statistics import paired_difference
from tests.experiment.comparison import small


def test_it_shows_its_table():
  found = small.make_comparison()
  assert repr(found) == found.table()
  assert "85.0 (0.0)" in found.table(width=200)
  assert "<b>85.0 (0.0)</b>" in found._repr_html_()
  assert "| fedavg | 1,2 | **85.0 (0.0)** |" in found.to_markdown()
  assert max(map(len, found.table(width=50).splitlines())) <= 50
  lines = found.table(["accuracy", "bytes"], width=200).splitlines()
  assert lines[2].split() == ["method", "bits", "accuracy", "KB", "sent"]


def test_latex_has_the_names_that_readers_know():
  text = small.make_comparison().to_latex(["accuracy"])
  assert "Local training & 32 & 80.0 (14.1)" in text
  assert "FedAvg & 1,2 & \\textbf{85.0 (0.0)}" in text
  text = small.make_comparison(titles={"local": "A_b"}).to_latex()
  assert "A\\_b & 32" in text and "minus A\\_b 32" in text


def test_single_runs_are_found_by_method_precision_and_seed():
  found = small.make_comparison()
  runs = found.runs[Row("fedavg", (1, 2))]
  assert found.run("fedavg") is runs[0]
  assert found.run("fedavg", (1, 2), seed=1) is runs[1]
  assert found.runs[Row("local", (32,))][0] is found.run("local", 32, 0)
  with pytest.raises(ValueError, match="seed=5: must be one of 0, 1"):
    found.run("local", seed=5)
  with pytest.raises(ValueError, match="method='x': must be one of local, fed"):
    found.run("x")
  with pytest.raises(
    ValueError, match=r"bits=1: .* 'fedavg', which has \[1, 2"
  ):
    found.run("fedavg", 1)


def test_several_rows_of_a_method_need_a_precision():
  first, second = small.make_results().values()
  found = small.make_comparison(
    {Row("local", (32,)): first, Row("local", (1,)): second}
  )
  with pytest.raises(ValueError, match=r"bits=None: .* has \[32\], \[1\]"):
    found.run("local")
  with pytest.raises(ValueError, match="bits='x': must be a precision"):
    found.run("local", "x")
  assert found.run("local", 1) is second[0]


@pytest.mark.parametrize("same", [False, True])
def test_any_two_rows_are_compared(same):
  found = small.make_comparison(same_clients=same)
  one, other = (
    {seed: run.scores for seed, run in own.items()}
    for own in found.runs.values()
  )
  expected = paired_difference(one, other, same_clients=same)
  assert found.difference("local", ("fedavg", (1, 2))) == expected
  assert expected.mean == pytest.approx(-0.1)


def test_the_table_is_written(tmp_path, monkeypatch):
  # Without figures, which `test_figures` writes.
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  found = small.make_comparison()
  written = found.save(tmp_path / "new")
  assert [path.name for path in written] == [
    "table.csv",
    "table.md",
    "table.tex",
  ]
  text = (tmp_path / "new" / "table.csv").read_text()
  rows = list(csv.DictReader(io.StringIO(text)))
  assert [row["method"] for row in rows] == ["local", "fedavg"]
  # Not rounded.
  assert float(rows[0]["std"]) == found.rows[0]["std"]
  assert rows[0]["difference_mean"] == ""
  assert (tmp_path / "new" / "table.tex").read_text() == found.to_latex()
  assert (tmp_path / "new" / "table.md").read_text() == found.to_markdown()


def test_figures_are_called_by_kind():
  found = small.make_comparison(titles={"fedavg": "Mean"})
  (axes,) = found.plot("clients").axes
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names[:2] == ["Mean, 1, 2 bits", "Local training, 32 bits"]
  (axes,) = found.plot().axes
  assert axes.get_xlabel() == "round"
  with pytest.raises(
    ValueError, match="kind='x': must be one of rounds, bytes"
  ):
    found.plot("x")


def test_rows_make_a_data_frame():
  pytest.importorskip("pandas", reason="of the extra test")
  found = small.make_comparison()
  frame = found.to_dataframe()
  assert list(frame.columns) == list(found.rows[0])
  np.testing.assert_array_equal(
    frame["accuracy"], [row["accuracy"] for row in found.rows]
  )


def test_it_does_not_change():
  with pytest.raises(AttributeError):
    small.make_comparison().rows = []  # pyright: ignore[reportAttributeAccessIssue]
