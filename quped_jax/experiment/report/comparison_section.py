"""What a report says of a comparison: its table, its figures, its settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from quped_jax.experiment import amounts
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.report import (
  drawings,
  reproduce,
  run_settings,
  tables,
)
from quped_jax.experiment.report.markup import Markup, element, join
from quped_jax.experiment.report.workdirs import Comparison
from quped_jax.experiment.scores import Score

_WORDS = ("method", "bits", "variant")
# Columns of scores, or of differences of scores.
_SCORES = ("std", "worst", "p10", "held_out_clients")
_DIFFERENCE = "difference_"
_TITLES = {
  "std": "deviation over seeds",
  "p10": "10th percentile",
  "worst": "worst client",
  "bytes": "bytes per client and round",
  "seconds": "seconds per round",
  "gradients": "gradients per client and round",
  "model_bytes": "model, bytes",
  "difference_mean": "minus first row",
  "difference_low": "lower end",
  "difference_high": "upper end",
}


def sections(comparison: Comparison) -> list[tuple[str, Markup]]:
  """(heading, content) of each part of what is said of a comparison."""
  return [
    ("Table", _table(comparison)),
    ("Figures", _figures(comparison)),
    ("Settings", _settings(comparison)),
    ("Reproduce", _reproduce(comparison)),
  ]


def _table(comparison: Comparison) -> Markup:
  done = [run for run in comparison.runs if run.summary is not None]
  open_ = [run.name for run in comparison.runs if run.summary is None]
  began = amounts.count(len(comparison.runs), "run")
  said = f"{len(done)} of {began} that began are finished"
  parts = [element("p", f"{said}.")]
  if open_:
    parts.append(
      element("p", f"Not finished: {', '.join(open_)}.", class_="warning")
    )
  if not comparison.rows:
    parts.append(
      element(
        "p",
        element("strong", "This comparison is not finished."),
        " It has no table.csv. The same command goes on with what is missing.",
        class_="warning",
      )
    )
    return join(*parts)
  rows = comparison.rows
  score = next(
    (x for x in scores_lib.SCORES.values() if x.name in rows[0]),
    scores_lib.ACCURACY,
  )
  columns = [name for name in rows[0] if any(row[name] for row in rows)]
  columns.sort(key=lambda name: name not in _WORDS)
  cells = [[_cell(name, row[name], score) for name in columns] for row in rows]
  titles = [_title(name, score) for name in columns]
  names = sum(name in _WORDS for name in columns)
  note = (
    f"{amounts.capital(score.title)}: {score.of}, of the variant that the "
    "method would deploy, mean over clients, then over seeds. The difference "
    "is over the same clients and seeds; the ends are of its 95 % interval."
  )
  return join(
    *parts,
    tables.table("Methods", titles, cells, names=names, sortable=True),
    element("p", note, class_="note"),
  )


def _title(name: str, score: Score) -> str:
  title = score.title if name == score.name else _TITLES.get(name)
  title = title or name.replace("_", " ")
  scored = name == score.name or name in _SCORES or name.startswith(_DIFFERENCE)
  return f"{title}, %" if scored and score.percent else title


def _cell(name: str, text: str, score: Score) -> str:
  if name in _WORDS or not text:
    return text
  try:
    value = float(text)
  except ValueError:
    return text
  if name.startswith(_DIFFERENCE):
    return score.number(value, "+")
  if name == score.name or name in _SCORES:
    return score.number(value)
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figures(comparison: Comparison) -> Markup:
  if not comparison.figures:
    return element("p", "The comparison has no figures.")
  found = [drawings.of_file(path) for path in comparison.figures]
  return element("div", join(*found), class_="figures")


def _settings(comparison: Comparison) -> Markup:
  """What all runs share that is not a default, and what differs."""
  settings = [run.settings for run in comparison.runs if run.settings]
  if not settings:
    return element("p", "No settings are recorded.")
  rows = [
    [element("code", name), value] for name, value in _shared(settings).items()
  ]
  shared = (
    tables.table(
      "Settings of all runs that differ from the defaults",
      ("setting", "value"),
      rows,
      names=2,
    )
    if rows
    else element("p", "What all runs share are the defaults.")
  )
  names = [run.name for run in comparison.runs if run.settings]
  differ = run_settings.differing(settings)
  turned = [
    [name, *(row[i] for row in differ)] for i, name in enumerate(names, 1)
  ]
  heads = ("run", *(element("code", name) for name, *_ in differ))
  table = tables.table("Runs", heads, turned, names=len(heads), sortable=True)
  return join(shared, tables.fold("Settings in which runs differ", table))


def _shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  first = {
    x.name: run_settings.written(x.value)
    for x in run_settings.said(settings[0])
    if x.differs
  }
  differ = {name for name, *_ in run_settings.differing(settings)}
  return {name: value for name, value in first.items() if name not in differ}


def _reproduce(comparison: Comparison) -> Markup:
  words = element(
    "p",
    "Each run is in a folder of its own, and has a report of its own by ",
    element("code", f"quped report {comparison.folder}/runs/NAME"),
    ", with its command.",
  )
  done = [run for run in comparison.runs if run.summary is not None]
  return join(words, reproduce.versions(done[0]) if done else "")
