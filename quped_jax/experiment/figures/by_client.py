"""Each client's score, against its precision and its amount of data.

A client with twenty test samples has an accuracy in steps of 5 %, which says
little about the next sample. Where accuracies are shares of samples, figures
show how far they may be off by chance: of few clients each one's interval, of
many the band in which most of them would be if all did equally well.
"""

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.figures import style
from quped_jax.experiment.figures.run_data import RunData

_CONFIDENCE = 0.95
# Of more clients, single intervals would hide each other.
_MOST_INTERVALS = 60
# Dots of more clients are pixels in an SVG file.
_MOST_SHAPES = 500
_SPREAD = 0.32  # How far dots are moved to both sides, at random.


def wilson(
  share: np.ndarray, count: np.ndarray, confidence: float = _CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  """Wilson's interval of a probability.

  Args:
    share: of the samples in which something was so, `[clients]`.
    count: of samples, at least one, `[clients]`.
    confidence: how often the interval has the probability.

  Returns:
    Its ends, `[clients]` each.

  References:
    Wilson, Probable inference, the law of succession, and statistical
    inference, 1927.
  """
  z = stats.norm.ppf(0.5 + confidence / 2)
  middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
  half = z / (1 + z**2 / count)
  half = half * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
  return middle - half, middle + half


def by_chance(
  share: float, count: int, confidence: float = _CONFIDENCE
) -> tuple[float, float]:
  """Between which shares most clients are that are all equally good.

  Args:
    share: the probability that a client's sample is classified correctly.
    count: a client's samples.
    confidence: how many of the clients.
  """
  low, high = stats.binom.interval(confidence, count, share)
  return low / count, high / count


def draw(run: RunData) -> style.Figure:
  """A dot for each client: over precisions above, over samples below.

  Args:
    run: what the run left.
  """
  clients, score = run.clients, run.score
  found = clients[run.variants[0]]
  held = ~np.isnan(found)
  shown = score.scale * found[held]
  figure = style.figure(height=3.6)
  upper, lower = figure.subplots(2, 1)
  names, groups = _groups(run)
  groups = groups[held]
  # Dots of one group would hide each other; numbers of samples are what they
  # are.
  aside = np.random.default_rng(0).uniform(-_SPREAD, _SPREAD, groups.shape)
  places = {upper: groups + aside, lower: clients["train_samples"][held]}
  counts = clients["test_samples"][held]
  note, ends = _uncertainty(run, found[held], counts, places)
  for axes, x in places.items():
    axes.plot(
      x,
      shown,
      "o",
      color=style.COLOURS[0],
      markersize=2.5,
      markeredgewidth=0,
      alpha=0.7,
      zorder=3,
      rasterized=len(x) > _MOST_SHAPES,
    )
    style.fit_score(axes, score, [shown, *ends])
  for group in np.unique(groups):
    mean = np.mean(shown[groups == group])
    at = group - _SPREAD, group + _SPREAD
    upper.plot(at, [mean, mean], color="black", linewidth=1.2, zorder=4)
  upper.set_xticks(range(len(names)), names)
  upper.set_xlim(-0.6, len(names) - 0.4)
  samples = clients["train_samples"][held]
  # However alike clients are, there are several whole numbers on the axis.
  beside = [samples.min() - 1, samples.max() + 1] if samples.size else []
  style.fit(lower, [samples, *beside], "x")
  style.whole_numbers(lower)
  words = run.axis(run.variants[0])
  style.label(upper, _group_title(run), words)
  style.label(lower, "training samples of the client", words)
  upper.grid(visible=False, axis="x")
  style.title(
    figure,
    run.title,
    f"a dot per client, above moved aside a little; black: means{note}",
  )
  return figure


def _group_title(run: RunData) -> str:
  several = len(set(run.clients["model"])) > 1
  return "model and bits of the client" if several else "bits of the client"


def _groups(run: RunData) -> tuple[list[str], np.ndarray]:
  """Names of the groups of clients, and which each client is in."""
  bits = run.clients["bits"].astype(int)
  models = run.clients["model"]
  several = len(set(models)) > 1
  keys = [
    (int(b), str(model) if several else "")
    for b, model in zip(bits, models, strict=True)
  ]
  found = sorted(set(keys))
  names = [f"{model}\n{b}" if model else str(b) for b, model in found]
  return names, np.array([found.index(key) for key in keys], float)


def _uncertainty(
  run: RunData,
  found: np.ndarray,
  counts: np.ndarray,
  places: dict[Axes, np.ndarray],
) -> tuple[str, list[np.ndarray]]:
  """Draws how far scores may be off by chance.

  Args:
    run: what the run left.
    found: the clients' scores, `[clients]`.
    counts: of their test samples.
    places: {axes: where the clients are, from left to right}.

  Returns:
    What is drawn, in words, and the ends of it.
  """
  if run.score != scores_lib.ACCURACY or not found.size:
    return "", []
  if len(found) <= _MOST_INTERVALS:
    low, high = (run.score.scale * x for x in wilson(found, counts))
    for axes, x in places.items():
      axes.vlines(
        x, low, high, color=style.COLOURS[0], alpha=0.3, linewidth=0.7, zorder=2
      )
    return "; lines: 95 % intervals of each (Wilson)", [low, high]
  count = int(np.median(counts))
  share = float(np.sum(found * counts) / np.sum(counts))
  low, high = (run.score.scale * x for x in by_chance(share, count))
  for axes in places:
    axes.axhspan(low, high, color=style.LIGHT, alpha=0.6, linewidth=0, zorder=0)
  note = (
    f"; grey: where 95 % of clients with {count} test samples would be if all "
    "were equally good"
  )
  return note, [np.array([low, high])]
