"""Accuracy over each of a method's settings."""

import json
import math

import pytest

import quped_jax as qj
from quped_jax.experiment.comparison import sensitivity
from tests.experiment.comparison import small


def make_config(**changes):
  changes = {"seeds": (1, 0), "bits": ("32",), **changes}
  config = small.make_config(base={"learning_rate": 0.3}, **changes)
  config["tune"]["spaces"]["fedavg"] = {
    "learning_rate": (0.4, 0.02),
    "fedavg": {"weighting": ("samples", "uniform")},
  }
  return config


def test_each_setting_is_changed_alone_around_what_is_given(tmp_path):
  points = sensitivity.make_points(make_config(), "fedavg", tmp_path)
  found = [(p.setting, p.value, p.given) for p in points]
  assert found == [
    ("learning_rate", 0.02, False),
    ("learning_rate", 0.3, True),
    ("learning_rate", 0.4, False),
    ("fedavg.weighting", "samples", True),
    ("fedavg.weighting", "uniform", False),
  ]
  assert points[1].runs == points[3].runs
  for p in points:
    assert [run.settings.seed for run in p.runs] == [1, 0]
    for run in p.runs:
      rate, weighting = 0.3, "samples"
      if p.setting == "learning_rate":
        rate = p.value
      else:
        weighting = p.value
      assert run.settings.learning_rate == (rate,)
      assert run.settings.options().weighting == weighting
  assert len({run.folder for p in points for run in p.runs}) == 8


class Diverging(small.Stub):
  def __call__(self, settings, folder, **how):
    if settings.learning_rate[0] == 0.4 and settings.seed == 1:
      raise qj.DivergenceError("every client diverged")
    super().__call__(settings, folder, **how)


@pytest.mark.slow
def test_it_writes_a_table_and_a_figure(tmp_path):
  start, lines = Diverging(), []
  config = make_config()
  records = sensitivity.sensitivity(
    config, "fedavg", tmp_path, start, lines.append
  )
  # Those that several settings share run once, seed by seed.
  assert lines[0] == "8 of 8 runs to do"
  assert [s.seed for s in start.settings] == [0] * 4 + [1] * 3
  written = json.loads((tmp_path / "sensitivity_fedavg.json").read_text())
  assert [r["bits"] for r in written] == ["32"] * 5
  first, diverged = written[0], written[2]
  assert first["seeds"] == [1, 0] and first["value"] == 0.02
  assert first["accuracy"] == pytest.approx([0.785, 0.775])
  assert first["mean"] == pytest.approx(0.78)
  assert first["std"] == pytest.approx(0.01 / math.sqrt(2))
  assert diverged["accuracy"][0] is None and diverged["mean"] is None
  assert math.isnan(records[2]["mean"])
  for kind in ("png", "svg", "pdf"):
    assert (tmp_path / f"sensitivity_fedavg.{kind}").stat().st_size > 5000
  again, lines = Diverging(), []
  sensitivity.sensitivity(config, "fedavg", tmp_path, again, lines.append)
  # What diverged, and is not finished.
  assert lines[0] == "1 of 8 runs to do" and not again.settings


@pytest.mark.parametrize(
  ("method", "message"),
  [
    ("nope", "methods='nope': must be one of"),
    ("ditto_x", "methods='ditto_x': must be one of"),
  ],
)
def test_a_method_that_is_not_there_is_an_error(method, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    sensitivity.make_points(make_config(), method, tmp_path)


def test_a_method_without_a_space_is_an_error(tmp_path):
  config = make_config()
  del config["tune"]["spaces"]["fedavg"]
  with pytest.raises(ValueError, match="tune.spaces.fedavg: must be given"):
    sensitivity.make_points(config, "fedavg", tmp_path)
  config["tune"]["spaces"]["fedavg"] = {"rounds": (1, 2)}
  with pytest.raises(ValueError, match="rounds: must be the same for all"):
    sensitivity.make_points(config, "fedavg", tmp_path)
  config["tune"]["spaces"]["fedavg"] = {"ditto": {"lambda_p": (0.1,)}}
  message = "tune.spaces.fedavg.ditto.lambda_p: must be an option of .*'fedavg'"
  with pytest.raises(ValueError, match=message):
    sensitivity.make_points(config, "fedavg", tmp_path)
  config["tune"]["spaces"]["fedavg"] = {"rate": (0.1,)}
  with pytest.raises(ValueError, match="fedavg_32: rate=0.1: no such field"):
    sensitivity.make_points(config, "fedavg", tmp_path)


def test_the_figure_has_axes_for_each_setting_and_a_line_for_each_row(tmp_path):
  points = sensitivity.make_points(
    make_config(bits="32; 1"), "fedavg", tmp_path
  )
  records = [
    {"mean": 0.7 + 0.01 * i, "std": 0.02, "value": p.value, "given": p.given}
    for i, p in enumerate(points)
  ]
  figure = sensitivity.draw(points, records)
  rates, weightings = figure.axes
  assert rates.get_xlabel() == "learning_rate"
  assert rates.get_xscale() == "log"
  assert weightings.get_xlabel() == "fedavg.weighting"
  assert [x.get_text() for x in weightings.get_xticklabels()] == [
    "samples",
    "uniform",
  ]
  (legend,) = figure.legends
  assert [x.get_text() for x in legend.get_texts()] == ["32 bits", "1 bit"]
  # A curve, and a ring at the given value.
  assert [len(x.lines) for x in figure.axes] == [4, 4]
  low, high = rates.get_ylim()
  assert low < 68 and high > 100 * (records[-1]["mean"] + 0.02)
