"""One method over all combinations of some settings' values."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quped_jax import checks, paths
from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import optional, output, own_functions, scores, titles
from quped_jax.experiment import sweep as sweep_lib
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.comparison import sheet
from quped_jax.experiment.comparison.sheet import Cell, Sheet
from quped_jax.experiment.scores import Score
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.sweep import SweptRun
from quped_jax.typing import Path

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, repr=False)
class Grid:
  """What a method's score is over some settings, as `grid` leaves it.

  At the end of a notebook's cell it shows its table.

  Attributes:
    settings: those that all runs share.
    over: {"setting" or "method.option": its values}.
    runs: all of them, as `sweep` returns them; seeds vary fastest.
    rows: a record per combination of values: the values, and the score under
      its own name, mean over seeds, with its standard deviation `std`, None
      with one seed. A score is NaN where a run diverged.
    validated: whether scores are on validation data, which is so if the
      settings of all runs keep some, and not on test data.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> over = {"learning_rate": (0.01, 0.1), "momentum": (0.0, 0.9)}
    >>> found = qj.grid(settings, over, seeds=[0], quiet=True)
    >>> found.pairs()
    [('learning_rate', 'momentum')]
    >>> found.to_markdown().splitlines()[0]
    '| learning_rate | momentum | accuracy |'
  """

  settings: Settings
  over: dict[str, tuple[Any, ...]]
  runs: list[SweptRun]
  rows: list[Record]
  validated: bool

  @property
  def score(self) -> Score:
    """What is shown of each combination."""
    return _score_of(self.runs)

  @property
  def best(self) -> Record | None:
    """The row with the best mean score; None if every run diverged."""
    name = self.score.name
    known = [row for row in self.rows if not math.isnan(row[name])]
    return max(known, key=lambda row: row[name], default=None)

  @property
  def title(self) -> str:
    """What readers call the runs: "QuPeD, 1 bit"."""
    return titles.of_run(self.settings.method, self.settings.turns)

  def pairs(self) -> list[tuple[str, str]]:
    """The pairs of settings that have several values each."""
    several = [name for name, values in self.over.items() if len(values) > 1]
    return list(itertools.combinations(several, 2))

  def values(self, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores over two settings, the others as in the best row.

    Args:
      x: a setting.
      y: another one.

    Returns:
      The means and their standard deviations over seeds, NaN where a run
      diverged, `[values of y, values of x]`, not in percent.
    """
    others = {
      name: self.best[name] if self.best else values[0]
      for name, values in self.over.items()
      if name not in (x, y)
    }
    shape = len(self.over[y]), len(self.over[x])
    means, stds = np.full(shape, np.nan), np.zeros(shape)
    for row in self.rows:
      if all(row[name] == value for name, value in others.items()):
        place = self.over[y].index(row[y]), self.over[x].index(row[x])
        means[place], stds[place] = row[self.score.name], row["std"] or 0.0
    return means, stds

  def plot(self, x: str | None = None, y: str | None = None) -> Figure:
    """The score over two settings, as a heat map whose best value is marked.

    Args:
      x: the setting from left to right; by default the last one.
      y: from bottom to top; by default the one before.

    Raises:
      ValueError: a setting that is none of the grid's.
      ImportError: matplotlib is not installed.
    """
    ys, xs = self.pairs()[-1]
    x = x or (xs if y != xs else ys)
    y = y or (ys if x != ys else xs)
    for field, name in (("x", x), ("y", y)):
      checks.choice(field, name, [*self.over])
    if x == y:
      raise ValueError(f"y={y!r}: must be another setting than x")
    means, stds = self.values(x, y)
    others = {
      name: sheet.value(self.best[name])
      for name, values in self.over.items()
      if self.best and name not in (x, y) and len(values) > 1
    }
    return _drawing().draw(
      (x, [sheet.value(value) for value in self.over[x]]),
      (y, [sheet.value(value) for value in self.over[y]]),
      means,
      stds,
      self.score,
      ", ".join([self.title, *(f"{n}={v}" for n, v in others.items())]),
    )

  def sheet(self) -> Sheet:
    """The table: a row per combination, the best in bold."""
    score, best = self.score, self.best
    where = "validation" if self.validated else "test"

    def text(row: Record) -> str:
      if math.isnan(row[score.name]):
        return "diverged"
      std = "" if row["std"] is None else f" ({score.number(row['std'])})"
      return score.number(row[score.name]) + std

    seeds = len(self.runs) // len(self.rows)
    return Sheet(
      (*self.over, score.title),
      [
        [
          *(Cell(sheet.value(row[name])) for name in self.over),
          Cell(text(row), best is not None and row is best),
        ]
        for row in self.rows
      ],
      names=len(self.over),
      title=f"{self.title}, mean over {seeds} seed{'s' * (seeds > 1)}",
      notes=(
        f"{score.title}: on {where} data, of the variant that the method would "
        "deploy, mean over clients, then mean (standard deviation) over seeds",
      ),
    )

  def table(self, width: int | None = None) -> str:
    """The table as plain text, `width` characters wide, or as the terminal."""
    return sheet.plain(self.sheet(), width)

  def to_markdown(self) -> str:
    """The table in Markdown."""
    return sheet.markdown(self.sheet())

  def to_latex(self) -> str:
    """The table as a `tabular` of LaTeX, which needs the package booktabs."""
    return sheet.latex(self.sheet())

  def to_dataframe(self) -> Any:
    """The rows as a pandas data frame.

    Raises:
      ImportError: pandas is not installed.
    """
    return optional.data_frame(self.rows)

  def save(self, folder: Path, name: str = "grid") -> list[pathlib.Path]:
    """Writes the table, as CSV, Markdown and LaTeX, and the heat maps.

    There is one heat map for each pair of settings, as PNG, SVG and PDF, or
    none without matplotlib.

    Args:
      folder: made if it does not exist.
      name: how the files' names begin.

    Returns:
      The paths of all files.

    Raises:
      OSError: they cannot be written.
    """
    folder = paths.given("folder", folder)
    written = sheet.write(self, folder, name)
    try:
      _drawing()
    except ImportError:
      return written
    from quped_jax.experiment.figures import style

    pairs = self.pairs()
    for y, x in pairs:
      own = name if len(pairs) == 1 else f"{name}_{y}_{x}"
      kinds = ("png", "svg", "pdf")
      written += style.save(self.plot(x, y), folder, own, kinds)
    return written

  def __repr__(self) -> str:
    return self.table()

  def _repr_html_(self) -> str:
    return sheet.to_html(self.sheet())


def _drawing():
  """The module that draws; whoever draws nothing needs no matplotlib."""
  optional.need_matplotlib()
  from quped_jax.experiment.comparison import heat_map

  return heat_map


def grid(
  settings: Settings,
  over: Mapping[str, Iterable[Any]],
  seeds: int | Iterable[int] = (0, 1, 2),
  workdir: Path | None = None,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  callbacks: Callable[[SweptRun], Sequence[Callback]] | None = None,
  loss: str | own_functions.Loss | None = None,
  metrics: own_functions.Metrics = (),
  quiet: bool = False,
  resume: bool = True,
  run_strategy: str = "auto",
) -> Grid:
  """Runs a method at all combinations of some settings' values.

  It is a `sweep` over these settings and the seeds, whose runs share compiled
  programs where they can, and the table and the heat maps of what came out.

  Settings are chosen on validation data: with `validation_fraction`, scores are
  on these. Without, they are on test data: they describe the method, and the
  best of many looks better than it is.

  Args:
    settings: those of all runs.
    over: {"setting" or "method.option": the values to try}; at least two
      settings with several values each.
    seeds: whole numbers; scores are means over them.
    workdir: where results go, a folder per run, with the table and the heat
      maps; None for nowhere.
    federation: used instead of those that the settings describe, if given.
    model: likewise.
    callbacks: see `sweep`.
    loss: likewise.
    metrics: likewise.
    quiet: whether nothing is shown meanwhile.
    resume: see `sweep`.
    run_strategy: likewise.

  Returns:
    The grid: its table, in a notebook at the end of a cell; heat maps by
    `plot`; and all runs.

  Raises:
    ValueError: see `sweep`; or fewer than two settings with several values.
    Interrupted: see `run`.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> over = {"learning_rate": (0.01, 0.1), "momentum": (0.0, 0.9)}
    >>> found = qj.grid(settings, over, seeds=[0], quiet=True)
    >>> len(found.rows)
    4
    >>> sorted(found.best)
    ['accuracy', 'learning_rate', 'momentum', 'seeds', 'std']
    >>> found.values("momentum", "learning_rate")[0].shape
    (2, 2)
  """
  values = sweep_lib.values_of(over)
  if "seed" in values:
    raise ValueError(f"over['seed']={values['seed']}: must be given as seeds")
  if sum(len(tried) > 1 for tried in values.values()) < 2:
    raise ValueError(
      f"over={checks.shown(values)}: must be at least two settings with "
      "several values each; `sweep` takes any"
    )
  many_seeds = tuple(seeds) if isinstance(seeds, Iterable) else (seeds,)
  runs = sweep_lib.sweep(
    settings,
    {**values, "seed": many_seeds},
    workdir,
    federation=federation,
    model=model,
    callbacks=callbacks,
    loss=loss,
    metrics=metrics,
    say=output.say,
    quiet=quiet,
    resume=resume,
    run_strategy=run_strategy,
  )
  # Of combinations as of seeds, the order is that of the sweep.
  groups = [
    runs[i : i + len(many_seeds)] for i in range(0, len(runs), len(many_seeds))
  ]
  name = _score_of(runs).name
  # The fraction may be one of the settings that vary.
  validated = all(run.settings.validation_fraction > 0 for run in runs)
  rows = [_record(own, values, name, validated=validated) for own in groups]
  found = Grid(settings, values, runs, rows, validated)
  if workdir is not None:
    found.save(workdir)
  return found


def _score_of(runs: Sequence[SweptRun]) -> Score:
  """The score of all runs: a finished one says what it is."""
  finished = (run.summary for run in runs if run.summary is not None)
  summary = next(finished, None)
  if summary is None:
    return scores.of_run(runs[0].settings)
  return scores.of_summary(summary)


def _record(
  runs: Sequence[SweptRun],
  names: Iterable[str],
  score: str,
  *,
  validated: bool,
) -> Record:
  """What the runs of a combination came to."""
  found = [_score(run, validated=validated) for run in runs]
  return {
    **{name: runs[0].changes[name] for name in names},
    score: float(np.mean(found)),
    "std": float(np.std(found, ddof=1)) if len(found) > 1 else None,
    "seeds": len(found),
  }


def _score(run: SweptRun, *, validated: bool) -> float:
  """A run's score, or NaN if it diverged."""
  if run.summary is None or not validated:
    return run.score
  value = run.history[-1][f"validation/{run.summary['primary_variant']}"]
  return math.nan if value is None else value
