"""The score over rounds, of each variant of the clients' models."""

from quped_jax.experiment.figures import style
from quped_jax.experiment.figures.records import PERCENTILES
from quped_jax.experiment.figures.run_data import RunData

_LOW, _HIGH = 10, 90


def draw(run: RunData) -> style.Figure:
  """Axes for each variant: the mean over clients, and a band of most of them.

  The means of the others are grey.

  Args:
    run: what the run left. Without records there are no bands.
  """
  variants = run.variants
  figure = style.figure(height=0.3 + 1.2 * len(variants))
  all_axes = figure.subplots(
    len(variants), 1, sharex=True, sharey=True, squeeze=False
  )[:, 0]
  shown, banded = [], False
  for own, axes in zip(variants, all_axes, strict=True):
    for variant, look in style.looks(variants, [own]).items():
      rounds, means = run.curve(variant)
      style.line(axes, look, rounds, means)
      shown.append(means)
    rounds, spread = run.spread(own)
    if rounds.size:
      low, high = (spread[:, PERCENTILES.index(x)] for x in (_LOW, _HIGH))
      style.band(axes, style.looks([own])[own], rounds, low, high)
      shown += [low, high]
      banded = True
    style.label(axes, "", run.axis())
    axes.set_title(f"{own} model", fontsize=style.SMALL, loc="right", pad=2)
  first = int(run.history[0]["round"])
  after = f", evaluated from round {first} on" if first > 1 else ""
  all_axes[-1].set_xlabel(f"round{after}")
  style.whole_numbers(all_axes[-1])
  style.fit_score(all_axes[-1], run.score, shown)
  band = f"; band: {_LOW}th to {_HIGH}th percentile" if banded else ""
  others = "; grey: the other variants" if len(variants) > 1 else ""
  style.title(figure, run.title, f"line: mean over clients{band}{others}")
  return figure
