"""A comparison's figures: over rounds, over bytes, and client by client."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from quped_jax import paths
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished
from quped_jax.experiment.scores import Score

# A method has a colour and a marker; a precision has a line style. Once all
# colours are taken, they repeat with the next marker.
_COLOURS = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
_MARKERS = "osD^vPX*<>"
_LINES = ("-", "--", ":", "-.")
_DOT_HEIGHT = 0.28  # Inches per row of dots.


class Curve(NamedTuple):
  """How a row's score develops in training, mean over seeds.

  Attributes:
    rounds: numbers of the evaluated rounds, `[evaluations]`.
    scores: of the primary variant, in % if it is shown so, `[evaluations]`.
    megabytes: sent by then, down and up, mean over all clients,
      `[evaluations]`.
  """

  rounds: np.ndarray
  scores: np.ndarray
  megabytes: np.ndarray


def curve(finished: Mapping[int, Finished]) -> Curve:
  """The curve of a row, from {seed: its finished run}."""
  runs = list(finished.values())
  summary = runs[0].summary
  rounds = np.array([record["round"] for record in runs[0].history])
  field = f"test/{summary['primary_variant']}"
  # As floats: what was not finite is None.
  histories = [[record[field] for record in run.history] for run in runs]
  scores = np.mean(np.array(histories, float), axis=0)
  scores *= scores_lib.of_summary(summary).scale
  # Clients that are absent from a round send nothing.
  per_round = summary["bytes_up"] + summary["bytes_down"]
  per_round *= summary["clients_per_round"] / summary["clients"]
  return Curve(rounds, scores, rounds * per_round / 1e6)


def styles(rows: Sequence[Row]) -> dict[Row, dict[str, Any]]:
  """How each row looks: colour and marker by method, line by precision."""
  methods = list(dict.fromkeys(row.method for row in rows))
  precisions = list(dict.fromkeys(row.bits for row in rows))
  result = {}
  for row in rows:
    method, bits = methods.index(row.method), precisions.index(row.bits)
    turn, colour = divmod(method, len(_COLOURS))
    result[row] = {
      "color": _COLOURS[colour],
      "marker": _MARKERS[turn % len(_MARKERS)],
      "linestyle": _LINES[bits % len(_LINES)],
    }
  return result


def _axes(rows: int) -> tuple[Figure, Axes]:
  """A figure that has room for a legend of so many rows on its right."""
  figure = Figure(figsize=(8, max(4.0, 0.8 + 0.2 * rows)), layout="constrained")
  axes = figure.subplots()
  axes.grid(alpha=0.3)
  return figure, axes


def _limit(axes: Axes, curves: Mapping[Row, Curve], score: Score) -> None:
  """Cuts off what lies far below the score at which all curves end."""
  ends = min(c.scores[-1] for c in curves.values())
  lowest = min(np.min(c.scores) for c in curves.values())
  point = score.scale / 100
  axes.set_ylim(bottom=max(lowest, ends - 15 * point) - point)
  axes.set_ylabel(score.axis("mean over clients and seeds"))


def _legend(figure: Figure) -> None:
  figure.legend(loc="outside right upper", fontsize="small", handlelength=3)


def over_rounds(curves: Mapping[Row, Curve], score: Score) -> Figure:
  """The score over the rounds."""
  figure, axes = _axes(len(curves))
  for row, style in styles(list(curves)).items():
    c = curves[row]
    axes.plot(
      c.rounds, c.scores, label=row.title, markersize=4, alpha=0.8, **style
    )
  axes.set_xlabel("round")
  _limit(axes, curves, score)
  _legend(figure)
  return figure


def over_bytes(curves: Mapping[Row, Curve], score: Score) -> Figure:
  """The score over the bytes that a client has sent and received.

  A method that sends nothing is a horizontal line at its last score.
  """
  figure, axes = _axes(len(curves))
  for row, style in styles(list(curves)).items():
    c = curves[row]
    if c.megabytes[-1] > 0:
      axes.plot(
        c.megabytes,
        c.scores,
        label=row.title,
        markersize=4,
        alpha=0.8,
        **style,
      )
    else:
      axes.axhline(
        c.scores[-1],
        label=f"{row.title} (sends nothing)",
        alpha=0.8,
        color=style["color"],
        linestyle=style["linestyle"],
      )
  sent = [c.megabytes for c in curves.values() if c.megabytes[-1] > 0]
  if sent:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    # With several powers of ten on the axis, only these are labelled.
    everything = np.concatenate(sent)
    decades = np.log10(everything.max() / everything.min())
    axes.xaxis.set_minor_formatter("{x:g}" if decades < 1 else NullFormatter())
  axes.set_xlabel("megabytes per client, down and up")
  _limit(axes, curves, score)
  _legend(figure)
  return figure


def of_clients(
  results: Mapping[Row, Mapping[int, Finished]], score: Score
) -> Figure:
  """A dot for each client of each seed, in a line of dots for each row."""
  height = 1.0 + _DOT_HEIGHT * len(results)
  figure = Figure(figsize=(8, height), layout="constrained")
  axes = figure.subplots()
  axes.grid(axis="x", alpha=0.3)
  # Dots are scattered up and down: with few test samples many scores are
  # equal, and their dots would hide each other.
  rng = np.random.default_rng(0)
  chosen = styles(list(results))
  for i, (row, finished) in enumerate(results.items()):
    found = np.concatenate([run.scores for run in finished.values()])
    found = score.scale * found
    height = i + rng.uniform(-0.3, 0.3, found.shape)
    colour = chosen[row]["color"]
    axes.plot(found, height, ".", color=colour, markersize=5, alpha=0.45, mew=0)
    mean = np.nanmean(found)
    axes.plot([mean, mean], [i - 0.4, i + 0.4], color="black", linewidth=1.5)
  axes.set_yticks(range(len(results)), [row.title for row in results])
  axes.set_ylim(len(results) - 0.4, -0.6)
  axes.set_xlabel(score.axis("each client (line: mean)"))
  return figure


def write(
  results: Mapping[Row, Mapping[int, Finished]], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Writes all figures and returns their paths."""
  curves = {row: curve(finished) for row, finished in results.items()}
  some = next(iter(next(iter(results.values())).values()))
  score = scores_lib.of_summary(some.summary)
  figures = {
    f"{score.name}_over_rounds.png": over_rounds(curves, score),
    f"{score.name}_over_bytes.png": over_bytes(curves, score),
    f"{score.name}_of_clients.png": of_clients(results, score),
  }
  for name, figure in figures.items():
    with paths.replacing(folder / name) as file:
      figure.savefig(file, format="png", dpi=150)
  return [folder / name for name in figures]
