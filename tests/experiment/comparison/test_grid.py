"""One method over all combinations of some settings' values."""

import dataclasses
import math

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.comparison import grid as grid_lib
from quped_jax.experiment.figures import style
from quped_jax.experiment.sweep import SweptRun, plan
from tests.experiment.comparison import small

BASE = qj.Settings(
  method="fedavg",
  clients=3,
  classes_per_client=4,
  bits=(32,),
  hidden=(8,),
  rounds=2,
  steps=2,
  devices=1,
)
OVER = {
  "learning_rate": (0.1, 0.2),
  "fedavg.server_learning_rate": [0.5, 1.0],
  "momentum": [0.0, 0.5, 0.9],
}


def accuracy(settings):
  """Made up; more is better for all but the momentum, which is best at 0.5."""
  if settings.learning_rate == (0.2,) and settings.momentum == 0.9:
    return math.nan
  return (
    settings.learning_rate[0]
    + 0.1 * settings.options().server_learning_rate
    - abs(settings.momentum - 0.5) / 10
    + 0.02 * settings.seed
  )


@pytest.fixture
def swept(monkeypatch):
  """What was swept; nothing is run."""
  seen = []

  def finish(run: SweptRun) -> SweptRun:
    value = accuracy(run.settings)
    if math.isnan(value):
      return run._replace(error="it diverged")
    made = small.make_summary(run.settings, np.full(3, value))
    history: list[dict[str, float]] = [{"round": 2}]
    if run.settings.validation_fraction:
      history[0]["validation/quantized"] = value / 2
    return run._replace(summary=made, history=history)

  def sweep(settings, over, workdir, **how):
    seen.append((settings, over, workdir, how))
    return [finish(run) for run in plan(settings, over, workdir)]

  monkeypatch.setattr(grid_lib.sweep_lib, "sweep", sweep)
  return seen


def test_a_row_is_the_mean_over_seeds_of_a_combination(swept):
  found = qj.grid(BASE, OVER, seeds=range(2), quiet=True)
  ((_, over, workdir, how),) = swept
  assert over["seed"] == (0, 1) and workdir is None and how["quiet"]
  assert len(found.runs) == 24 and len(found.rows) == 12
  first = found.rows[0]
  assert [first[name] for name in OVER] == [0.1, 0.5, 0.0]
  assert first["accuracy"] == pytest.approx(0.1 + 0.05 - 0.05 + 0.01)
  assert first["std"] == pytest.approx(0.02 / math.sqrt(2))
  assert math.isnan(found.rows[-1]["accuracy"])
  assert found.best is not None
  assert [found.best[name] for name in OVER] == [0.2, 1.0, 0.5]


def test_with_validation_data_scores_are_of_it(swept):
  kept = dataclasses.replace(BASE, validation_fraction=0.2)
  test, validation = (
    qj.grid(settings, OVER, 0).rows[0]["accuracy"] for settings in (BASE, kept)
  )
  assert validation == pytest.approx(test / 2)
  assert "on validation data" in qj.grid(kept, OVER, 0).sheet().notes[0]
  assert "on test data" in qj.grid(BASE, OVER, 0).sheet().notes[0]


@pytest.mark.parametrize("least", [0.0, 0.1])
def test_scores_are_of_validation_data_if_all_runs_have_some(least, swept):
  over = {"validation_fraction": (least, 0.2), "momentum": (0.0, 0.5)}
  base = dataclasses.replace(BASE, validation_fraction=0.2)
  found = qj.grid(base, over, [0])
  assert found.validated == (least > 0)
  assert found.rows[0]["accuracy"] == pytest.approx(0.1 / (1 + (least > 0)))


def test_a_heat_map_takes_another_setting_for_the_other_axis(swept):
  found = qj.grid(BASE, OVER, [0])
  for own in OVER:
    assert found.plot(y=own).axes[0].get_ylabel().startswith(own)
    assert found.plot(x=own).axes[0].get_xlabel().startswith(own)


def test_a_heat_map_goes_through_the_best(swept):
  found = qj.grid(BASE, OVER, 0)
  assert found.pairs() == [
    ("learning_rate", "fedavg.server_learning_rate"),
    ("learning_rate", "momentum"),
    ("fedavg.server_learning_rate", "momentum"),
  ]
  means, stds = found.values("momentum", "learning_rate")
  # At the best of the third.
  expected = [[0.15, 0.2, 0.16], [0.25, 0.3, np.nan]]
  np.testing.assert_allclose(means, expected)
  np.testing.assert_array_equal(stds, np.zeros((2, 3)))
  axes = found.plot().axes[0]
  assert axes.get_xlabel() == "momentum"
  assert axes.get_ylabel() == "fedavg.server_learning_rate"
  assert axes.figure.get_suptitle() == "FedAvg, 32 bits, learning_rate=0.2"
  axes = found.plot("learning_rate").axes[0]
  assert axes.get_ylabel() == "fedavg.server_learning_rate"
  for x, y in (("nope", None), ("momentum", "momentum")):
    with pytest.raises(ValueError, match="must be"):
      found.plot(x, y)


def test_its_table_marks_the_best_and_says_what_diverged(swept):
  found = qj.grid(BASE, OVER, seeds=(0, 1))
  text = found.to_markdown()
  assert "| 0.2 | 1 | 0.5 | **31.0 (1.4)** |" in text
  assert "| 0.2 | 1 | 0.9 | diverged |" in text
  assert text.count("**") == 2
  assert repr(found) == found.table()
  assert "FedAvg, 32 bits, mean over 2 seeds" in found.table(width=100)
  assert r"fedavg.server\_learning\_rate" in found.to_latex()
  assert "<b>31.0 (1.4)</b>" in found._repr_html_()


def test_a_workdir_gets_the_table_and_a_heat_map_for_each_pair(
  swept, tmp_path, monkeypatch
):
  drawn = []

  def save(figure, folder, name, kinds):
    drawn.append((name, figure.axes[0].get_xlabel(), *kinds))
    return [folder / f"{name}.{kind}" for kind in kinds]

  monkeypatch.setattr(style, "save", save)
  qj.grid(BASE, OVER, 0, tmp_path)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"grid.csv", "grid.md", "grid.tex"}
  kinds = ("png", "svg", "pdf")
  rate, server = "learning_rate", "fedavg.server_learning_rate"
  assert drawn == [
    (f"grid_{rate}_{server}", server, *kinds),
    (f"grid_{rate}_momentum", "momentum", *kinds),
    (f"grid_{server}_momentum", "momentum", *kinds),
  ]
  drawn.clear()
  two = {name: OVER[name] for name in ("learning_rate", "momentum")}
  written = qj.grid(BASE, two, 0).save(tmp_path / "new", "own")
  assert drawn == [("own", "momentum", *kinds)]
  assert len(written) == 6


@pytest.mark.parametrize(
  ("over", "message"),
  [
    ({"momentum": [0.1, 0.5]}, "over=.*: must be at least two settings with"),
    ({"momentum": [0.1, 0.5], "steps": [2]}, "over=.*: must be at least two"),
    ({"seed": [0, 1], "steps": [1, 2]}, "seed.*: must be given as seeds"),
    ({}, "over={}: must map at least one setting"),
    ({"nope": [0, 1], "steps": [1, 2]}, "nope"),
  ],
)
def test_mistakes_are_named(over, message, swept):
  with pytest.raises(ValueError, match=message):
    qj.grid(BASE, over)
  assert not swept


def test_all_of_its_runs_are_given_the_same(swept):
  given = {"callbacks": lambda run: [], "loss": "focal", "metrics": ("loss",)}
  qj.grid(BASE, OVER, 0, **given)
  ((_, _, _, how),) = swept
  assert given.items() <= how.items()


def test_rows_make_a_data_frame(swept):
  pytest.importorskip("pandas", reason="of the extra test")
  assert len(qj.grid(BASE, OVER, 0).to_dataframe()) == 12


@pytest.mark.slow
def test_runs_are_those_of_a_sweep(tmp_path):
  over = {"learning_rate": (0.1, 0.3), "momentum": (0.0, 0.9)}
  found = qj.grid(BASE, over, (0, 1), tmp_path, quiet=True)
  for row, runs in zip(found.rows, np.reshape(range(8), (4, 2)), strict=True):
    scores = [found.runs[i].score for i in runs]
    assert row["accuracy"] == pytest.approx(np.mean(scores))
    assert {found.runs[i].settings.momentum for i in runs} == {row["momentum"]}
  assert (tmp_path / "sweep.json").is_file()
  again = qj.grid(BASE, over, (0, 1), tmp_path, quiet=True)
  assert again.rows == found.rows
