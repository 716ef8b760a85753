"""Targets: what a sample's label is, a class, numbers, or several labels.

Their kind is known by their type, wherever they are:

- "classes": int32 `[samples]`;
- "values", of regression: float32 `[samples, width]`;
- "multi_label", any number of labels at once: bool `[samples, labels]`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays
from quped_jax.data import labels as labels_lib

KINDS = ("classes", "values", "multi_label")
_DTYPES = {"classes": "int32", "values": "float32", "multi_label": "bool"}

# Networks start with outputs of about 1, and settings are chosen for that.
_LARGE = 10.0


def kind_of(labels: Any) -> str:
  """The kind of an array of targets, or of its shape and type."""
  return {"f": "values", "b": "multi_label"}.get(labels.dtype.kind, "classes")


def read(
  values: Any, kind: str, num_classes: int | None
) -> tuple[np.ndarray, int, tuple[str, ...] | None]:
  """Targets as users give them.

  Args:
    values: classes, see `labels.class_numbers`; real numbers, `[samples]` or
      `[samples, width]`; or 0 and 1, `[samples, labels]`.
    kind: one of `KINDS`.
    num_classes: how many outputs a network has for them; None: as many as they
      say.

  Returns:
    The targets, in the type of their kind; how many outputs a network has for
    them; and the names of classes that are given as text, or None.

  Raises:
    ValueError: they are of another kind.
  """
  checks.choice("targets", kind, KINDS)
  if kind == "classes":
    return labels_lib.class_numbers(values, num_classes)
  array = arrays.real_array("labels", values)
  made = _values(array) if kind == "values" else _several(array)
  width = made.shape[1]
  if num_classes not in (None, width):
    raise ValueError(
      f"num_classes={num_classes}: must be {width}, the columns of labels, or "
      f"be left out with targets={kind!r}"
    )
  return made, width, None


def _values(array: np.ndarray) -> np.ndarray:
  if array.ndim == 1:
    array = array[:, None]
  _check_columns(array, "values", "[samples] or [samples, width]")
  wrong = ~(np.abs(array.astype(np.float64)) <= checks.LARGEST)
  if wrong.any():
    raise ValueError(
      f"labels={array[wrong][0]}: must be finite, and at most "
      f"{checks.LARGEST:.2g} in size, which float32 holds"
    )
  size = np.sqrt(np.mean(np.square(array, dtype=np.float64)))
  if size > _LARGE:
    warnings.warn(
      f"labels: are of size {size:.3g} (root mean square), where networks "
      "train best on targets of size 1. Subtract the mean of each column, and "
      "divide by its standard deviation",
      stacklevel=4,
    )
  return array.astype(np.float32)


def _several(array: np.ndarray) -> np.ndarray:
  _check_columns(array, "multi_label", "[samples, labels]")
  wrong = (array != 0) & (array != 1)
  if wrong.any():
    raise ValueError(
      f"labels={array[wrong][0]}: must be 0 or 1 with targets='multi_label'"
    )
  return array.astype(bool)


def _check_columns(array: np.ndarray, kind: str, shape: str) -> None:
  if array.ndim != 2 or not array.shape[1]:
    raise ValueError(
      f"labels.shape={array.shape}: must be {shape} with targets={kind!r}"
    )


def check(labels: np.ndarray, num_classes: Any, samples: int) -> int:
  """Checks the targets of a dataset; returns its number of outputs.

  Args:
    labels: an array of NumPy.
    num_classes: the number of classes, or of columns.
    samples: how many samples there are.

  Raises:
    ValueError: they are of no kind, or of another shape.
  """
  kind = kind_of(labels)
  if labels.dtype != _DTYPES[kind]:
    raise ValueError(
      f"labels.dtype={labels.dtype}: must be int32, of classes; float32, of "
      "values; or bool, of several labels at once"
    )
  if kind == "classes":
    shape, num_classes = (samples,), labels_lib.whole_classes(num_classes)
  else:
    num_classes = checks.whole("num_classes", num_classes, 1)
    shape = (samples, num_classes)
  if labels.shape != shape:
    raise ValueError(
      f"labels.shape={labels.shape}: must be {shape}, one entry per row of "
      "inputs" + ("" if kind == "classes" else " and output")
    )
  if kind == "classes":
    labels_lib.check_range(labels, num_classes)
  elif kind == "values" and not np.isfinite(labels).all():
    raise ValueError(
      f"labels={labels[~np.isfinite(labels)][0]}: must be finite"
    )
  return num_classes


def strata(labels: np.ndarray) -> np.ndarray:
  """What is divided in proportion, `[samples]`: the classes, if there are any.

  Samples with other targets are all alike.
  """
  if kind_of(labels) == "classes":
    return labels
  return np.zeros(len(labels), np.int32)


def unknown(labels: np.ndarray) -> np.ndarray:
  """What stands for targets that nobody knows, of the same type and shape."""
  nothing = {"classes": -1, "values": np.nan, "multi_label": False}
  return np.full_like(labels, nothing[kind_of(labels)])
