"""Several runs side by side."""

import pytest

from quped_jax.experiment import optional
from quped_jax.experiment.report import drawings, side_by_side
from tests.experiment.report import made

DASH = "\N{EN DASH}"


@pytest.fixture
def no_figures(monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)


def section(tmp_path, *runs):
  folders = [
    made.run(tmp_path / f"run{i}", **values) for i, values in enumerate(runs)
  ]
  read = [made.read(folder) for folder in folders]
  titles = [run.name for run in read]
  return side_by_side.section(read, titles, drawings.Numbering())


def test_a_column_for_each_run(tmp_path, no_figures):
  better = {"quantized": {"mean": 0.95, "std": 0.01}}
  said = section(
    tmp_path,
    {},
    {"summary": {"accuracy": better}, "steps": 3},
    {"finished": False},
  )
  assert "<td>90.0 %" not in said  # Numbers are set to the right.
  assert '<td class="number">90.0 %</td>' in said
  assert "<strong>95.0 %</strong>" in said and said.count("<strong>") == 1
  assert "no, at round 4" in said
  assert "16.5 KB" in said  # (1 + 32) / 2, mean over clients.
  assert "<code>steps</code>" in said and "<code>dataset</code>" not in said


def test_the_same_settings_are_said_to_be(tmp_path, no_figures):
  said = section(tmp_path, {}, {})
  assert "All runs have the same settings." in said
  assert "<strong>" not in said  # Neither is better.


def test_scores_that_differ_in_kind_have_no_best(tmp_path, no_figures):
  spread = {"quantized": {"mean": 0.5}}
  other = {
    "score": "r2", "r2": spread,
    "client_types": {"mlp@1": {"clients": 1, "r2": spread}},
  }  # fmt: skip
  said = section(tmp_path, {}, {"summary": other, "loss": "squared_error"})
  assert "accuracy / R2, mean over clients" in said
  assert "<strong>" not in said and ">0.500<" in said


def test_figures_of_several_scores_are_beside_each_other(tmp_path):
  said = section(
    tmp_path,
    {"finished": False},
    {"finished": False, "loss": "squared_error"},
  )
  assert said.count("<figure>") == 2
  assert said.count('<div class="figures">') == 1
  assert "R2 over rounds" in said and "Accuracy over rounds" in said


def test_curves_are_in_one_figure(tmp_path):
  said = section(tmp_path, {}, {"finished": False}, {"rounds": 2})
  assert said.count("<figure>") == 1
  for name in ("run0", "run1", "run2"):
    assert f">{name}</text>" in said
