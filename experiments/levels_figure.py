"""Weights and levels of one layer over the rounds, from a real run.

Draws the figure of docs/how-quped-works.md:

python -m experiments.levels_figure --figure=docs/figures/levels_forming.png
"""

from typing import NamedTuple

import numpy as np
from absl import flags

import quped_jax as qj
from configs import digits
from experiments import common
from quped_jax import paths
from quped_jax.experiment.figures import style

_FIGURE = flags.DEFINE_string(
  "figure", "results/levels_forming.png", "Where the figure goes, a PNG file."
)
_ROUNDS = flags.DEFINE_list(
  "rounds", ["0", "5", "15", "40"], "After which rounds to look, ascending."
)

# The one quantized layer of the MLP for digits.
_LAYER = ("hidden_1", "kernel")
_BITS = 2
_DPI = 160
_BINS = 60
_WEIGHTS, _LEVELS, *_ = style.COLOURS


class Moment(NamedTuple):
  """A layer after some round.

  Attributes:
    round: how many rounds are done.
    weights: float32 `[weights]`.
    levels: float32 `[levels]`.
    accuracy: {variant: mean over clients}, on test data.
  """

  round: int
  weights: np.ndarray
  levels: np.ndarray
  accuracy: dict[str, float]


def train(rounds: list[int]) -> list[Moment]:
  """Trains clients by themselves, and looks at one of them.

  Args:
    rounds: after which to look, ascending.
  """
  config = digits.get_config()
  # Four clients of 450 samples each, who train long enough to settle.
  config.update(
    method="local", bits=(_BITS,), clients=4, partition="iid", strength=2e-4
  )
  settings = common.get_settings(config)
  simulation = qj.build(settings).simulation
  state = simulation.init(settings.seed)
  moments = []
  for wanted in rounds:
    if wanted > int(state.round):
      state, _ = simulation.run_rounds(state, wanted - int(state.round))
    learner = qj.client_state(state, 0)
    layer, name = _LAYER
    codebook = learner.codebooks[layer][name]
    found = simulation.evaluate(state)["test"]
    moments.append(
      Moment(
        wanted,
        np.ravel(learner.params[layer][name]),
        np.asarray(codebook.centers)[: int(codebook.levels)],
        {variant: float(np.mean(score)) for variant, score in found.items()},
      )
    )
  return moments


def draw(moments: list[Moment]) -> style.Figure:
  """A histogram of the weights for each moment, with lines at the levels."""
  figure = style.figure(style.FULL, 2.0)
  panels = figure.subplots(1, len(moments), sharex=True, sharey=True)
  widest = max(np.abs(moment.weights).max() for moment in moments)
  bins = np.linspace(-widest, widest, _BINS + 1)
  for axes, moment in zip(np.atleast_1d(panels), moments, strict=True):
    share = np.full(moment.weights.shape, 100 / moment.weights.size)
    axes.hist(moment.weights, bins, weights=share, color=_WEIGHTS)
    for level in moment.levels:
      axes.axvline(level, color=_LEVELS, linewidth=1, linestyle=(0, (4, 2)))
    # The tallest bars are of weights at their levels.
    axes.set_yscale("symlog", linthresh=5)
    axes.set_yticks([0, 5, 20, 50], ["0", "5", "20", "50"])
    trained, stored = (
      f"{100 * moment.accuracy[variant]:.0f} %"
      for variant in ("personalized", "quantized")
    )
    title = f"after {moment.round} rounds" if moment.round else "at the start"
    axes.set_title(
      f"{title}\naccuracy {trained},\nat the levels {stored}",
      fontsize=style.TEXT,
    )
    axes.tick_params(labelsize=style.SMALL)
    for side in ("top", "right"):
      axes.spines[side].set_visible(False)
  figure.supxlabel(
    "weight (bars) and level (dashed lines)", fontsize=style.TEXT
  )
  figure.supylabel("weights, %", fontsize=style.TEXT)
  return figure


def main(argv: list[str]) -> None:
  """Trains, and draws."""
  del argv  # The command's name alone.

  def run():
    figure = draw(train([int(number) for number in _ROUNDS.value]))
    path = paths.given("figure", _FIGURE.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.replacing(path) as file:
      file.write(style.png(figure, _DPI))
    print(f"Figure: {path}")

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
