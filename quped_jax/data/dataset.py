"""A labelled dataset in memory, the basis of partitions and federations."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from quped_jax import checks
from quped_jax.data.npy import load_npy


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Samples, labels, and what is known about their origin.

  Attributes:
    name: What error messages call the dataset.
    inputs: `[samples, ...]`, uint8 (images, to save memory) or float32.
    labels: `[samples]` int32, in `[0, num_classes)`.
    num_classes: Number of classes, at least 2.
    is_test: `[samples]` bool, the dataset's own test split. None: it has none,
      and each client's samples are split.
    groups: `[samples]` int32, the natural owner (such as the writer) of each
      sample, or None.
    mean: What is subtracted from the inputs when a batch is drawn, in raw
      units, broadcastable to one sample.
    std: What they are then divided by, positive, in raw units.

  Raises:
    ValueError: If a field is not as described here; the message names it.
  """

  name: str
  inputs: np.ndarray
  labels: np.ndarray
  num_classes: int
  is_test: np.ndarray | None = None
  groups: np.ndarray | None = None
  mean: np.ndarray | float = 0.0
  std: np.ndarray | float = 1.0

  def __post_init__(self):
    self._check_inputs()
    self._check_column("labels", self.labels, np.int32)
    self._check_column("is_test", self.is_test, np.bool_)
    self._check_column("groups", self.groups, np.int32)
    checks.at_least("num_classes", self.num_classes, 2)
    _check_labels(self.labels, self.num_classes)
    if self.groups is not None and self.groups.min() < 0:
      raise ValueError(f"groups={self.groups.min()}: must not be negative")
    self._check_scale()

  def _check_inputs(self):
    inputs = self.inputs
    if inputs.dtype not in (np.uint8, np.float32):
      raise ValueError(f"inputs.dtype={inputs.dtype}: must be uint8 or float32")
    if inputs.ndim < 2 or inputs.size == 0:
      raise ValueError(
        f"inputs.shape={inputs.shape}: must be [samples, ...] with at least "
        "one sample and no empty axis"
      )
    if inputs.dtype == np.float32:
      # The extremes reveal NaN and infinity without a copy of the inputs.
      extremes = np.array([inputs.min(), inputs.max()])
      if not np.isfinite(extremes).all():
        raise ValueError(
          f"inputs={extremes[~np.isfinite(extremes)][0]}: must be finite, "
          "without NaN and infinity"
        )

  def _check_column(self, field, column, dtype):
    if column is None:
      return
    if column.dtype != dtype:
      raise ValueError(
        f"{field}.dtype={column.dtype}: must be {np.dtype(dtype).name}"
      )
    if column.shape != (len(self.inputs),):
      raise ValueError(
        f"{field}.shape={column.shape}: must be ({len(self.inputs)},), one "
        "entry per row of inputs"
      )

  def _check_scale(self):
    sample_shape = self.inputs.shape[1:]
    for field in ("mean", "std"):
      value = np.asarray(getattr(self, field))
      try:
        fits = np.broadcast_shapes(value.shape, sample_shape) == sample_shape
      except ValueError:
        fits = False
      if not fits:
        raise ValueError(
          f"{field}.shape={value.shape}: must broadcast to one sample, "
          f"{sample_shape}"
        )
      if not np.isfinite(value).all():
        raise ValueError(f"{field}={value}: must be finite")
    if np.any(np.asarray(self.std) <= 0):
      raise ValueError(f"std={self.std}: must be positive")


def from_arrays(
  inputs,
  labels,
  *,
  name: str = "arrays",
  num_classes: int | None = None,
  is_test=None,
  groups=None,
  mean: np.ndarray | float = 0.0,
  std: np.ndarray | float = 1.0,
) -> Dataset:
  """Makes a dataset from any pair of arrays.

  Args:
    inputs: `[samples, ...]` real numbers. uint8 stays uint8, anything else
      becomes float32.
    labels: `[samples]` integers.
    name: What error messages call the dataset.
    num_classes: Number of classes; None: the largest label plus one.
    is_test: `[samples]` bool, or None: there is no test split.
    groups: `[samples]` integers, the natural owner of each sample, or None.
    mean: Subtracted from the inputs when a batch is drawn, in raw units.
    std: What they are then divided by, in raw units.

  Returns:
    The dataset.

  Raises:
    ValueError: If the arrays do not make a dataset; the message names the
      field, its value and what is allowed.
  """
  inputs = np.asarray(inputs)
  if inputs.dtype.kind not in "buif":
    raise ValueError(f"inputs.dtype={inputs.dtype}: must be real numbers")
  if inputs.dtype != np.uint8:
    # What is too large becomes infinite, which Dataset reports.
    with np.errstate(over="ignore"):
      inputs = inputs.astype(np.float32)
  labels = _integers("labels", labels)
  if num_classes is None:
    num_classes = int(labels.max()) + 1 if labels.size else 0
  # Before the cast to int32, which would wrap large labels round.
  _check_labels(labels, num_classes)
  return Dataset(
    name=name,
    inputs=inputs,
    labels=labels.astype(np.int32),
    num_classes=num_classes,
    is_test=None if is_test is None else np.asarray(is_test),
    groups=None
    if groups is None
    else _integers("groups", groups).astype(np.int32),
    mean=mean,
    std=std,
  )


def from_npy(
  inputs_path: str | os.PathLike[str], labels_path: str | os.PathLike[str]
) -> Dataset:
  """Reads a dataset from two `.npy` files, see `from_arrays`.

  Args:
    inputs_path: File of the inputs, `[samples, ...]`.
    labels_path: File of the labels, `[samples]` integers.

  Returns:
    The dataset, named after the inputs file.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file is not a `.npy` file of numbers, or the arrays do not
      make a dataset.
  """
  return from_arrays(
    load_npy("inputs_path", inputs_path),
    load_npy("labels_path", labels_path),
    name=os.path.basename(inputs_path),
  )


def _integers(field, values):
  values = np.asarray(values)
  if values.dtype.kind not in "iu":
    raise ValueError(f"{field}.dtype={values.dtype}: must be integers")
  if values.size and values.max() > np.iinfo(np.int32).max:
    raise ValueError(f"{field}={values.max()}: must be less than 2**31")
  if values.size and values.min() < 0:
    raise ValueError(f"{field}={values.min()}: must not be negative")
  return values


def _check_labels(labels, num_classes):
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    raise ValueError(
      f"labels={labels[wrong][0]}: must be between 0 and {num_classes - 1}, "
      f"num_classes={num_classes}"
    )
