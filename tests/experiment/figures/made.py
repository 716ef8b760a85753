"""What a run might have left, for the tests of its figures."""

from typing import Any

import numpy as np

from quped_jax.experiment.figures import style
from quped_jax.experiment.figures.run_data import RunData

CLIENTS, ROUNDS = 24, 12
VARIANTS = "personalized", "quantized", "global"


def run(
  *,
  bits: tuple[int, ...] = (1, 2, 32),
  clients: int = CLIENTS,
  first: int = 1,
  tensors: tuple[str, ...] = ("first", "second"),
  levels: int = 2,
  sent: float = 1500.0,
  **summary: Any,
) -> RunData:
  """A run whose scores rise from round to round."""
  rng = np.random.default_rng(0)
  rounds = range(first, ROUNDS + 1)
  means = {v: 0.2 + 0.6 * np.arange(1, ROUNDS + 1) / ROUNDS for v in VARIANTS}

  def spread(round_):
    middle = means["global"][round_ - 1]
    return [float(middle + d) for d in (-0.1, -0.05, 0.0, 0.05, 0.1)]

  def histogram(round_):
    at = [float(x) for x in np.linspace(-1, 1, levels) * (1 + round_ / ROUNDS)]
    counts = rng.integers(0, 50, 20).tolist()
    return {"low": -1.5, "high": 1.2, "counts": counts, "levels": at}

  records: list[dict[str, Any]] = [
    {
      "round": round_,
      "scores": {v: spread(round_) for v in VARIANTS} if round_ else {},
    }
    for round_ in (0, *rounds)
  ]
  for record in records if tensors else ():
    drawn = {name: histogram(record["round"]) for name in tensors}
    record |= {"client": 1, "tensors": drawn}
  count = np.arange(clients)
  per_type = {"bytes_up": sent, "bytes_down": 2 * sent}
  return RunData(
    {
      "method": "quped",
      "bits": list(bits),
      "primary_variant": "quantized",
      "clients": clients,
      "clients_per_round": clients / 2,
      "bytes_up": sent,
      "bytes_down": 2 * sent,
      "client_types": {f"mlp(8,8)@{b}": dict(per_type) for b in bits},
      **summary,
    },
    {
      "client": count.astype(float),
      "model": np.array(["mlp"] * clients),
      "bits": np.array([bits[i % len(bits)] for i in count], float),
      "train_samples": 10.0 + count,
      "test_samples": np.full(clients, 20.0),
      **{v: np.round(rng.uniform(0.5, 1, clients), 2) for v in VARIANTS},
    },
    [
      {
        "round": round_,
        **{f"test/{v}": float(means[v][round_ - 1]) for v in VARIANTS},
      }
      for round_ in rounds
    ],
    records,
  )


def texts(figure: style.Figure) -> str:
  """All that a figure says."""
  figure.draw_without_rendering()
  found: Any = figure.findobj(lambda x: hasattr(x, "get_text"))
  return "\n".join(x.get_text() for x in found if x.get_visible())


def points(line: Any) -> tuple[np.ndarray, np.ndarray]:
  """What a line goes through."""
  x, y = line.get_data()
  return np.asarray(x, float), np.asarray(y, float)


def assert_nothing_is_outside(figure: style.Figure) -> None:
  """Asserts that lines are inside their axes, and text in the figure."""
  figure.draw_without_rendering()
  for axes in figure.axes:
    (left, right), (low, high) = axes.get_xlim(), sorted(axes.get_ylim())
    for line in axes.lines:
      x, y = points(line)
      assert np.nanmin(x) >= left and np.nanmax(x) <= right
      assert np.nanmin(y) >= low and np.nanmax(y) <= high
    for band in axes.collections:
      outline = [path.vertices for path in band.get_paths()]
      if outline and band.get_transform() == axes.transData:
        y = np.concatenate(outline)[:, 1]
        assert np.nanmin(y) >= low and np.nanmax(y) <= high
  box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
  assert box.x0 >= -0.01 and box.x1 <= width + 0.01
  assert box.y0 >= -0.01 and box.y1 <= height + 0.01
  letters: Any = figure.findobj(lambda x: hasattr(x, "get_text"))
  for text in letters:
    assert text.get_fontsize() >= style.SMALL, text
