"""Several runs side by side: what differs, how well they do, one figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quped_jax.experiment import amounts
from quped_jax.experiment.report import curves, run_settings, tables
from quped_jax.experiment.report.drawings import Numbering
from quped_jax.experiment.report.markup import Markup, element, join
from quped_jax.experiment.report.run_section import (
  diverged,
  privacy,
  shown,
)
from quped_jax.experiment.report.workdirs import Run
from quped_jax.experiment.scores import Score

_NONE = "\N{EN DASH}"


def section(
  runs: Sequence[Run], titles: Sequence[Any], numbering: Numbering
) -> Markup:
  """Results and settings, a column for each run, and the curves of all.

  Args:
    runs: two or more.
    titles: of the columns.
    numbering: of the page's figures.
  """
  heads = ("result", *titles)
  return join(
    tables.table("Results, a column for each run", heads, _results(runs)),
    _settings(runs, ("setting", *titles)),
    _curves(runs, numbering),
  )


def _results(runs: Sequence[Run]) -> list[list[Any]]:
  best = _best(runs)

  def primary(name: str) -> Callable[[Run, Mapping[str, Any]], Any]:
    def cell(run, summary):
      spread = summary[run.score.name][summary["primary_variant"]]
      text = shown(run.score, spread.get(name))
      first = name == "mean" and best is not None and spread.get(name) == best
      return element("strong", text) if first else text

    return cell

  def model(run, summary):
    del run
    types = summary["client_types"].values()
    if not all("model_bytes" in x for x in types):
      return _NONE
    clients = sum(x["clients"] for x in types)
    total = sum(x["clients"] * x["model_bytes"] for x in types)
    return amounts.size(total / clients)

  score = " / ".join(dict.fromkeys(run.score.title for run in runs))
  rows: dict[str, Callable[[Run, Mapping[str, Any]], Any]] = {
    "variant to compare": lambda run, x: x["primary_variant"],
    f"{score}, mean over clients": primary("mean"),
    "standard deviation": primary("std"),
    "worst client": primary("worst"),
    "10th percentile": primary("p10"),
    "down, per client and round": lambda run, x: amounts.size(x["bytes_down"]),
    "up, per client and round": lambda run, x: amounts.size(x["bytes_up"]),
    "model, mean over clients": model,
    "time per round": lambda run, x: amounts.time(
      x["timing"]["seconds_per_round"]
    ),
    "time in all": lambda run, x: amounts.time(x["timing"]["total_seconds"]),
    "diverged clients": lambda run, x: diverged(x),
    "privacy": lambda run, x: privacy(x),
  }
  return [
    ["run", *(run.title for run in runs)],
    [
      "finished",
      *(
        "yes" if run.summary else f"no, at round {run.last_round()}"
        for run in runs
      ),
    ],
    *(
      [
        name,
        *(
          cell(run, run.summary) if run.summary is not None else _NONE
          for run in runs
        ),
      ]
      for name, cell in rows.items()
    ),
  ]


def _best(runs: Sequence[Run]) -> float | None:
  """The best mean score, where all runs have the same score."""
  if len({run.score for run in runs}) > 1:
    return None
  means = [
    run.summary[run.score.name][run.summary["primary_variant"]].get("mean")
    for run in runs
    if run.summary is not None
  ]
  known = [x for x in means if x is not None]
  return max(known, default=None) if len(set(known)) > 1 else None


def _settings(runs: Sequence[Run], heads: Sequence[Any]) -> Markup:
  rows = run_settings.differing([run.settings for run in runs])
  if not rows:
    return element("p", "All runs have the same settings.")
  named = [[element("code", name), *values] for name, *values in rows]
  return tables.table("Settings that differ", heads, named)


def _curves(runs: Sequence[Run], numbering: Numbering) -> Markup:
  """A figure for each score that runs have."""
  groups = [
    (score, [run for run in runs if run.score == score and run.variants])
    for score in dict.fromkeys(run.score for run in runs)
  ]
  if not any(own for _, own in groups):
    return Markup()

  def draw(score: Score, own: Sequence[Run]):
    return curves.draw(
      {run.name: run.history for run in own},
      {run.name: f"test/{run.variants[0]}" for run in own},
      score,
      "mean over clients",
    )

  words = "over rounds, of each run's variant to compare"
  return numbering.draw(
    lambda: {
      amounts.capital(f"{score.title} {words}"): draw(score, own)
      for score, own in groups
      if own
    }
  )
