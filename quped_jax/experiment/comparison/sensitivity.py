"""How much a method's score depends on each of its settings.

Around the settings that the config gives the method, tuned ones say, each
setting of its space is changed alone, to each value of the space. The score is
that of the primary variant on test data, mean over clients. It describes a
method; settings are chosen on validation data, see `tune`.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from quped_jax import paths
from quped_jax.experiment import metrics, output, scores
from quped_jax.experiment.changes import folder_name, unflatten
from quped_jax.experiment.comparison import figures, plan, sheet, tune
from quped_jax.experiment.comparison import runs as runs_lib
from quped_jax.experiment.comparison.plan import Row, Run
from quped_jax.experiment.figures import style
from quped_jax.experiment.settings import Settings
from quped_jax.quantization import codebook

_HEIGHT = 2.2  # Inches of a setting's axes.


class Point(NamedTuple):
  """A setting's value, with all others as they are given.

  Attributes:
    row: the method and its precision.
    setting: "setting" or "method.option".
    value: of the setting.
    given: whether it is the one that the config gives.
    runs: one per seed.
  """

  row: Row
  setting: str
  value: Any
  given: bool
  runs: list[Run]


def make_points(
  config: Mapping[str, Any], method: str, workdir: pathlib.Path
) -> list[Point]:
  """All values of all settings of a method's space, each in order.

  The given value of a setting is among them. The run that all given settings
  make is the same for all.

  Args:
    config: the comparison's config, as plain values, with a section `tune`,
      which has a space for the method.
    method: its name, or that of a variant.
    workdir: each run has a folder of its own in `workdir / "sensitivity"`.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  rows = plan.make_rows({**config, "methods": (method,)})
  seeds = plan.parse_seeds("seeds", config["seeds"])
  space = tune.space_of(config.get("tune", {}), method)
  points = []
  for row in rows:
    given = plan.row_settings(config, row, seeds[0])
    for setting, values in space.items():
      # So that a name that is not known is an error.
      changes = unflatten({setting: values[0]})
      plan.row_settings(config, row, seeds[0], changes)
      own = _value(given, setting, f"tune.spaces.{method}.{setting}")
      for value in _in_order([own, *(x for x in values if x != own)]):
        made = [
          _run(config, workdir, row, seed, setting, value, given=value == own)
          for seed in seeds
        ]
        points.append(Point(row, setting, value, value == own, made))
  return points


def _value(settings: Settings, name: str, field: str) -> Any:
  """Of a setting, or of an option of the method; the only one of a tuple."""
  method, dot, option = name.rpartition(".")
  if dot and method != settings.method:
    raise ValueError(
      f"{field}: must be an option of the method that is run, "
      f"{settings.method!r}"
    )
  value = getattr(settings.options() if dot else settings, option)
  if isinstance(value, tuple) and len(value) == 1:
    return value[0]
  return value


def _in_order(values: Sequence[Any]) -> Sequence[Any]:
  """Numbers in increasing order; others as they are."""
  return sorted(values) if _are_numbers(values) else values


def _are_numbers(values: Sequence[Any]) -> bool:
  return all(
    isinstance(x, (int, float)) and not isinstance(x, bool) for x in values
  )


def _run(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  row: Row,
  seed: int,
  setting: str,
  value: Any,
  *,
  given: bool,
) -> Run:
  change = {} if given else {setting: value}
  name = f"_{folder_name(change)}" if change else ""
  return Run(
    row,
    plan.row_settings(config, row, seed, unflatten(change)),
    workdir / "sensitivity" / f"{row.name}{name}_seed{seed}",
    f"{row.title}, {tune.describe(change) or 'as given'}, seed {seed}",
  )


def record(point: Point) -> dict[str, Any]:
  """What a point's runs came to, for `sensitivity.json`.

  Its scores are under their own name, one per seed, and NaN where a run
  diverged; so are their mean and standard deviation then.
  """
  found = [_score(run) for run in point.runs]
  return {
    "method": point.row.method,
    "bits": point.row.bits_title,
    "setting": point.setting,
    "value": point.value,
    "given": point.given,
    "seeds": [run.settings.seed for run in point.runs],
    _score_of([point]).name: found,
    "mean": float(np.mean(found)),
    "std": float(np.std(found, ddof=1)) if len(found) > 1 else 0.0,
  }


def _score(run: Run) -> float:
  if not runs_lib.is_finished(run):
    return math.nan
  return scores.of_run(run.settings).of_primary(runs_lib.summary_of(run))


def _score_of(points: Sequence[Point]) -> scores.Score:
  """The same of all: it follows from the data."""
  return scores.of_run(points[0].runs[0].settings)


def draw(
  points: Sequence[Point], records: Sequence[Mapping[str, Any]]
) -> style.Figure:
  """The figure: axes for each setting, with a line and a band for each row.

  Args:
    points: of one method.
    records: theirs, see `record`.
  """
  score = _score_of(points)
  settings = list(dict.fromkeys(point.setting for point in points))
  rows = list(dict.fromkeys(point.row for point in points))
  down, across = style.grid(len(settings))
  figure = style.figure(style.HALF * across, _HEIGHT * down)
  all_axes = figure.subplots(down, across, sharey=True, squeeze=False)
  looks = style.looks(rows)
  for axes, setting in zip(all_axes.flat, settings, strict=False):
    for row in rows:
      own = [
        found
        for point, found in zip(points, records, strict=True)
        if (point.row, point.setting) == (row, setting)
      ]
      _draw_line(axes, row, own, looks[row], score.scale)
    style.label(axes, setting)
  for axes in all_axes.flat[len(settings) :]:
    axes.remove()
  for axes in all_axes[:, 0]:
    axes.set_ylabel(score.axis("mean over clients"), fontsize=style.TEXT)
  means = score.scale * np.array([found["mean"] for found in records])
  stds = score.scale * np.array([found["std"] for found in records])
  style.fit_score(all_axes[0, 0], score, [means - stds, means + stds])
  style.legend(figure, columns=len(rows), axes=all_axes[0, 0])
  return figure


def _draw_line(
  axes: Axes,
  row: Row,
  records: Sequence[Mapping[str, Any]],
  look: style.Look,
  scale: float,
) -> None:
  """Mean and standard deviation over seeds; a ring where it is given."""
  values = [found["value"] for found in records]
  places = np.arange(len(values), dtype=float)
  if _are_numbers(values):
    places = np.array(values, float)
    if min(values) > 0 and max(values) >= 10 * min(values):
      axes.set_xscale("log")
  axes.set_xticks(places, [sheet.value(value) for value in values])
  axes.xaxis.set_minor_locator(NullLocator())
  mean = scale * np.array([found["mean"] for found in records])
  std = scale * np.array([found["std"] for found in records])
  style.line(axes, look, places, mean, codebook.describe_bits(row.bits))
  style.band(axes, look, places, mean - std, mean + std)
  given = [found["given"] for found in records]
  axes.plot(
    places[given], mean[given], "o", markersize=8, markerfacecolor="none",
    markeredgecolor=look.colour,
  )  # fmt: skip


def sensitivity(
  config: Mapping[str, Any],
  method: str,
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  say: Callable[[str], None] = output.say,
  *,
  restart: bool = False,
  quiet: bool = False,
) -> list[dict[str, Any]]:
  """Runs a method with each of its settings changed, and draws what it does.

  It writes `sensitivity_METHOD.json`, and a figure as `.png`, `.svg` and
  `.pdf`.

  Args:
    config: see `make_points`.
    method: likewise.
    workdir: where all results go; what is there already is not run again.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    say: prints a line.
    restart: whether results of other runs in the workdir may be replaced.
    quiet: whether no progress is shown.

  Returns:
    A record per value of a setting, see `record`.

  Raises:
    ValueError: anything in the config that is not allowed, or a workdir with
      results of other runs, before a run starts.
  """
  folder = paths.given("workdir", workdir)
  points = make_points(config, method, folder)
  by_folder = {run.folder: run for point in points for run in point.runs}
  # Seed by seed: what comes first tells most.
  planned = sorted(by_folder.values(), key=lambda run: run.settings.seed)
  runs_lib.run_missing(
    planned,
    start,
    output.nothing if quiet else say,
    quiet=quiet,
    restart=restart,
    may_diverge=True,
  )
  records = [record(point) for point in points]
  text = json.dumps(metrics.plain(records), indent=2, allow_nan=False)
  paths.replace_text(folder / f"sensitivity_{method}.json", text + "\n")
  name = f"sensitivity_{method}"
  style.save(draw(points, records), folder, name, figures.FORMATS)
  return records
