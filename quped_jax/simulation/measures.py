"""Measures of models beside their score, each of sums over samples.

A measure says what is summed, and what follows from the sums of a client's
samples, or from those of all clients together. So it depends neither on batches
and devices, nor on the order of samples, nor on padding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# `(outputs [batch, width], targets [batch, ...]) -> [batch]`.
OfSamples = Callable[[jax.Array, jax.Array], jax.Array]

# {name: the kinds of targets that it is for}, see `quped_jax.data.targets`.
TARGETS = {
  "accuracy": ("classes",),
  "label_accuracy": ("multi_label",),
  "loss": ("classes", "values", "multi_label"),
  "macro_f1": ("classes", "multi_label"),
  "mae": ("values",),
  "mse": ("values",),
}


class Measure(NamedTuple):
  """A measure.

  Attributes:
    sums: `(outputs [batch, width], targets [batch, ...], bool [batch]) -> tree`
      of float32 sums over the samples that count.
    value: `tree -> [...]`, the measure itself, of such sums `[..., ...]` in
      NumPy; NaN of no samples.
  """

  sums: Callable[[jax.Array, jax.Array, jax.Array], Any]
  value: Callable[[Any], np.ndarray]


# `values -> {name: Measure}`, given the numbers of a population, see there.
OfValues = Callable[[Any], Mapping[str, Measure]]


class Measured(NamedTuple):
  """What a measure came to.

  Attributes:
    clients: of each client's own samples, float `[clients]`; NaN of none.
    pooled: of the samples of all clients together.
  """

  clients: np.ndarray
  pooled: float


class Mean(NamedTuple):
  """Sums of which a mean is made.

  Attributes:
    total: of what the samples have, `[...]`.
    count: of samples, likewise.
  """

  total: Any
  count: Any


class Counts(NamedTuple):
  """Numbers of samples by class, each `[..., classes]`.

  Attributes:
    hits: said to be of the class, and so they are.
    said: said to be of it.
    true: of it.
  """

  hits: Any
  said: Any
  true: Any


def make_measures(
  names: Sequence[str],
  loss: Callable[[jax.Array, jax.Array], jax.Array],
  own: Mapping[str, OfSamples],
  kind: str,
) -> dict[str, Measure]:
  """Measures by name.

  Args:
    names: of `TARGETS`, those that are for this kind.
    loss: `(outputs, targets) -> scalar`, of a batch; what "loss" is of each
      sample alone.
    own: a user's own, of which the mean over samples is taken.
    kind: of the targets, see `quped_jax.data.targets`.
  """
  by_name: dict[str, Measure] = {
    "accuracy": _mean(_hits),
    "label_accuracy": _mean(_hits_of_labels),
    "loss": _mean(_each_alone(loss)),
    "macro_f1": Measure(
      _counts if kind == "classes" else _counts_of_labels, _macro_f1
    ),
    "mae": _mean(lambda y, t: jnp.mean(jnp.abs(y - t), axis=-1)),
    "mse": _mean(lambda y, t: jnp.mean(jnp.square(y - t), axis=-1)),
  }
  return {
    **{name: by_name[name] for name in names},
    **{name: _mean(fn) for name, fn in own.items()},
  }


def measured(measure: Measure, sums: Any) -> Measured:
  """The measure of each client and of all.

  Args:
    measure: which.
    sums: of each client, `[clients, ...]`; NaN where there are none.
  """
  together = jax.tree.map(
    lambda x: np.nansum(x, axis=0, dtype=np.float64), sums
  )
  return Measured(measure.value(sums), float(measure.value(together)))


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether each sample is classified correctly, bool `[batch, 1]`."""
  hits = jnp.argmax(logits, axis=-1) == labels
  # The largest of logits that are NaN is the first: no prediction at all.
  return (hits & jnp.all(jnp.isfinite(logits), axis=-1))[:, None]


def correct_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether each label of each sample is right, bool `[batch, labels]`."""
  return ((logits > 0) == labels) & jnp.isfinite(logits)


def _mean(each: OfSamples) -> Measure:
  """The mean over samples."""

  def sums(outputs, targets, counts):
    values = each(outputs, targets).astype(jnp.float32)
    # Those that do not count may be anything.
    total = jnp.sum(jnp.where(counts, values, 0.0))
    return Mean(total, jnp.sum(counts.astype(jnp.float32)))

  return Measure(sums, lambda found: _ratio(found.total, found.count))


def _ratio(total: Any, count: Any) -> np.ndarray:
  """A mean; NaN of nothing."""
  some = np.asarray(count) > 0
  return np.where(some, total / np.where(some, count, 1), np.nan)


def _each_alone(loss: Callable[..., jax.Array]) -> OfSamples:
  """The loss of each sample, as of a batch of one."""
  return jax.vmap(lambda y, t: loss(y[None], t[None]))


def _hits(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  return correct(outputs, labels)[:, 0]


def _hits_of_labels(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  right = correct_labels(outputs, labels).astype(jnp.float32)
  return jnp.mean(right, axis=-1)


def _counts(outputs, labels, counts) -> Counts:
  """Of classes, of which a sample has one."""
  classes = jnp.arange(outputs.shape[-1])[None]
  sensible = jnp.all(jnp.isfinite(outputs), axis=-1)[:, None]
  said = (jnp.argmax(outputs, axis=-1)[:, None] == classes) & sensible
  return _counted(said, labels[:, None] == classes, counts)


def _counts_of_labels(outputs, labels, counts) -> Counts:
  """Of labels, of which a sample has any number."""
  return _counted((outputs > 0) & jnp.isfinite(outputs), labels, counts)


def _counted(said, true, counts) -> Counts:
  def number(which):
    return jnp.sum((which & counts[:, None]).astype(jnp.float32), axis=0)

  return Counts(number(said & true), number(said), number(true))


def _macro_f1(counts: Counts) -> np.ndarray:
  """The mean of F1 over the classes that occur, or that samples are said to be.

  .. math:: F_1 = \\frac{2 \\, \\text{hits}}{\\text{said} + \\text{true}}
  """
  of_class = _ratio(2 * counts.hits, counts.said + counts.true)
  known = ~np.isnan(of_class)
  total = np.sum(np.where(known, of_class, 0.0), axis=-1)
  return _ratio(total, np.sum(known, axis=-1))
