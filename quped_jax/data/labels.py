"""Classes that users give as labels: as their numbers, from 0."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays

# With more classes, each has two samples on average, or is meant to be one.
_MANY = 100
# How many classes a message lists.
_LISTED = 10


def class_numbers(
  values: Any, num_classes: int | None
) -> tuple[np.ndarray, int, tuple[str, ...] | None]:
  """The class of each sample, from labels of any kind.

  Args:
    values: `[samples]` or `[samples, 1]`: whole numbers, which are the classes;
      or text, of which each is a class, in sorted order. Text of digits stands
      for numbers. What text stands for is printed.
    num_classes: number of classes; None: the largest one's plus one.

  Returns:
    Labels, int32 `[samples]`; the number of classes; and their names, if the
    labels are text.

  Raises:
    ValueError: the labels are those of something else than classification.
  """
  array = arrays.as_array("labels", values)
  names = None
  texts = arrays.texts("labels", array)
  if texts is not None:
    array, names = _by_name(texts)
  if num_classes is not None:
    num_classes = whole_classes(num_classes)
  labels = _whole(_one_per_sample(array, names))
  if num_classes is None:
    num_classes = int(labels.max()) + 1 if labels.size else 0
    _check_classes(labels, num_classes, floats=array.dtype.kind == "f")
  # Before the cast to int32, which would wrap large labels round.
  check_range(labels, num_classes)
  if names is not None:
    _print(names)
  return labels.astype(np.int32), num_classes, names


def whole_classes(value: Any) -> int:
  """A number of classes, as an int that int32 holds."""
  num_classes = checks.whole("num_classes", value, 2)
  if num_classes >= 2**31:
    raise ValueError(
      f"num_classes={checks.shown(num_classes)}: must be less than 2**31"
    )
  return num_classes


def check_range(labels: np.ndarray, num_classes: int) -> None:
  """Raises a ValueError unless labels are in `[0, num_classes)`."""
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    raise ValueError(
      f"labels={labels[wrong][0]}: must be between 0 and {num_classes - 1}, "
      f"num_classes={num_classes}"
    )


def _by_name(texts: np.ndarray) -> tuple[np.ndarray, tuple[str, ...] | None]:
  """Numbers of classes that are given by name, and the names."""
  unique, numbers = np.unique(texts, return_inverse=True)
  # As OpenML and CSV files give MNIST's labels. Not "01", which "1" is not.
  if all(x.isdecimal() and x.isascii() and _plain(x) for x in unique):
    return texts.astype(np.int64), None
  return numbers.reshape(texts.shape), tuple(unique.tolist())


def _plain(digits: str) -> bool:
  return len(digits) <= 10 and str(int(digits)) == digits


def _one_per_sample(array: np.ndarray, names: Any) -> np.ndarray:
  array = arrays.column(array)
  if array.ndim == 2 and names is None and _is_one_hot(array):
    raise ValueError(
      f"labels.shape={array.shape}: must be [samples], the number of each "
      "sample's class; of one-hot labels that is labels.argmax(axis=1)"
    )
  if array.ndim != 1:
    raise ValueError(
      f"labels.shape={array.shape}: must be [samples], one class per sample"
    )
  return array


def _is_one_hot(array: np.ndarray) -> bool:
  array = arrays.real_array("labels", array)
  return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def _whole(array: np.ndarray) -> np.ndarray:
  """Labels as whole numbers that int32 holds, none negative."""
  array = arrays.real_array("labels", array)
  if array.dtype.kind == "f":
    array = array.astype(np.float64)
    if np.isnan(array).any():
      raise ValueError("labels=nan: must not be missing")
    wrong = array != np.rint(array)
    if wrong.any():
      raise ValueError(
        f"labels={array[wrong][0]}: must be classes, as whole numbers or text. "
        "targets='values' is for regression; np.digitize divides real numbers "
        "into classes"
      )
  if array.size and array.max() > np.iinfo(np.int32).max:
    raise ValueError(f"labels={array.max()}: must be less than 2**31")
  if array.size and array.min() < 0:
    raise ValueError(
      f"labels={array.min()}: must not be negative; classes count from 0, as "
      "those of np.unique(labels, return_inverse=True)[1] do"
    )
  return arrays.whole_array("labels", array)


def _check_classes(
  labels: np.ndarray, num_classes: int, *, floats: bool
) -> None:
  """Checks a number of classes that nobody has said."""
  used = np.unique(labels)
  if len(used) == 1 and num_classes < 2:
    raise ValueError(
      f"labels={used[0]}: must be of two classes or more; all are the same"
    )
  if num_classes > max(_MANY, len(labels) / 2):
    raise ValueError(
      f"labels: must be classes; from {used[0]} to {used[-1]} there would be "
      f"{num_classes} of them for {len(labels)} samples. If that is meant, say "
      f"so by num_classes={num_classes}; targets='values' is for regression, "
      "and np.digitize divides a range of numbers into classes"
    )
  if floats:
    warnings.warn(
      f"labels: are floats, and are taken as {num_classes} classes since all "
      "are whole numbers. If that is meant, say so by num_classes="
      f"{num_classes}; targets='values' is for regression",
      stacklevel=5,
    )
  if len(used) == num_classes:
    return
  empty = np.setdiff1d(np.arange(num_classes), used)
  listed = ", ".join(map(str, empty[:_LISTED]))
  cure = "np.unique(labels, return_inverse=True)[1] counts those there are"
  if len(empty) == used[0]:
    cure = f"labels - {used[0]} counts from 0"
  warnings.warn(
    f"labels: are from {used[0]} to {used[-1]}, which makes {num_classes} "
    f"classes, of which {len(empty)} have no samples ({listed}"
    f"{', ...' if len(empty) > _LISTED else ''}). If that is meant, say so by "
    f"num_classes={num_classes}; {cure}",
    stacklevel=4,
  )


def _print(names: tuple[str, ...]) -> None:
  """Says which class is which."""
  listed = ", ".join(f"{i} is {x!r}" for i, x in enumerate(names[:_LISTED]))
  more = f", ... {len(names)} in all" if len(names) > _LISTED else ""
  print(f"labels: class {listed}{more}")
