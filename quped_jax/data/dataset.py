"""A labelled dataset in memory, the basis of partitions and federations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays, images, oddities
from quped_jax.data import targets as targets_lib
from quped_jax.data.npy import load_npy
from quped_jax.short_repr import short_repr

# Bytes of inputs that are read at once.
_BLOCK = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Samples, labels, and what is known about their origin.

  `from_arrays` makes one of arrays of other types.

  Attributes:
    name: What error messages call the dataset.
    inputs: `[samples, ...]`, uint8 (images, to save memory) or float32.
    labels: `[samples]` int32, in `[0, num_classes)`; or `[samples,
      num_classes]` targets of another kind, see `quped_jax.data.targets`.
    num_classes: Number of classes, at least 2; or of a target's columns.
    is_test: `[samples]` bool, the dataset's own test split. None: it has none,
      and each client's samples are split.
    groups: `[samples]` int32, the natural owner (such as the writer) of each
      sample, or None.
    mean: What is subtracted from the inputs when a batch is drawn, in raw
      units, broadcastable to one sample.
    std: What they are then divided by, positive, in raw units.
    group_names: What the numbers in `groups` stand for; None: for nothing else.
    class_names: What the labels stand for, likewise. Of more classes, the
      first.

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
  group_names: tuple[str, ...] | None = None
  class_names: tuple[str, ...] | None = None

  __repr__ = short_repr

  def __post_init__(self):
    object.__setattr__(self, "name", checks.text("name", self.name))
    lowest, highest = self._check_inputs()
    _check_array("labels", self.labels)
    num_classes = targets_lib.check(
      self.labels, self.num_classes, len(self.inputs)
    )
    object.__setattr__(self, "num_classes", num_classes)
    self._check_column("is_test", self.is_test, np.bool_)
    self._check_column("groups", self.groups, np.int32)
    if self.groups is not None and self.groups.min() < 0:
      raise ValueError(f"groups={self.groups.min()}: must not be negative")
    groups = 0 if self.groups is None else int(self.groups.max()) + 1
    _check_names("group_names", self.group_names, groups, groups)
    _check_names("class_names", self.class_names, 1, num_classes)
    self._check_scale(lowest, highest)

  @property
  def targets(self) -> str:
    """The kind of its labels: "classes", "values" or "multi_label"."""
    return targets_lib.kind_of(self.labels)

  def _check_inputs(self) -> tuple[np.ndarray, np.ndarray]:
    """Checks the inputs; returns the least and the largest of each feature."""
    inputs = self.inputs
    _check_array("inputs", inputs)
    if inputs.dtype not in (np.uint8, np.float32):
      raise ValueError(f"inputs.dtype={inputs.dtype}: must be uint8 or float32")
    if inputs.ndim < 2 or inputs.size == 0:
      one = " (inputs[:, None] is, of one feature)" if inputs.ndim == 1 else ""
      raise ValueError(
        f"inputs.shape={inputs.shape}: must be [samples, ...] with at least "
        f"one sample and no empty axis{one}"
      )
    if inputs.dtype == np.uint8:
      # Without reading them: they may be mapped from a file.
      return np.array(0.0), np.array(255.0)
    # The extremes reveal NaN and infinity without a copy of the inputs.
    extremes = np.stack([inputs.min(axis=0), inputs.max(axis=0)])
    if not np.isfinite(extremes).all():
      raise ValueError(
        f"inputs={extremes[~np.isfinite(extremes)][0]}: must be finite, "
        "without NaN and infinity"
      )
    return extremes[0], extremes[1]

  def _check_column(self, field, column, dtype):
    if column is None:
      return
    _check_array(field, column)
    if column.dtype != dtype:
      raise ValueError(
        f"{field}.dtype={column.dtype}: must be {np.dtype(dtype).name}"
      )
    if column.shape != (len(self.inputs),):
      raise ValueError(
        f"{field}.shape={column.shape}: must be ({len(self.inputs)},), one "
        "entry per row of inputs"
      )

  def _check_scale(self, lowest: np.ndarray, highest: np.ndarray):
    """Checks that normalised inputs are numbers that float32 holds."""
    for field in ("mean", "std"):
      value = arrays.real_array(field, getattr(self, field))
      self._check_broadcast(field, value)
      wrong = ~(np.abs(value) <= checks.LARGEST)
      if wrong.any():
        raise ValueError(
          f"{field}={value[wrong][0]}: must be finite, and at most "
          f"{checks.LARGEST:.2g} in size, which float32 holds"
        )
      object.__setattr__(self, field, value if value.ndim else value.item())
    mean, std = (np.asarray(x, np.float64) for x in (self.mean, self.std))
    checks.positive("std", float(std.min()))
    farthest = np.maximum(abs(lowest - mean), abs(highest - mean))
    largest = max(farthest.max(), (farthest / std).max())
    if largest > checks.LARGEST:
      raise ValueError(
        f"std={std.min()}: must be such that inputs are numbers that float32 "
        f"holds when they are normalised; (inputs - mean) / std reaches "
        f"{largest:.2g}"
      )

  def _check_broadcast(self, field, value):
    sample_shape = self.inputs.shape[1:]
    try:
      fits = np.broadcast_shapes(value.shape, sample_shape) == sample_shape
    except ValueError:
      fits = False
    if not fits:
      raise ValueError(
        f"{field}.shape={value.shape}: must broadcast to one sample, "
        f"{sample_shape}"
      )


def _check_array(field, array):
  if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
    raise ValueError(
      f"{field}: must be a plain NumPy array; got {type(array).__name__}, of "
      "which from_arrays makes one"
    )


def _check_names(field, names, least, most):
  if names is None:
    return
  if not isinstance(names, tuple) or not all(isinstance(x, str) for x in names):
    raise ValueError(f"{field}={checks.shown(names)}: must be a tuple of text")
  if not least <= len(names) <= most:
    raise ValueError(
      f"{field}: must be from {least} to {most} names; got {len(names)}"
    )


def from_arrays(
  inputs,
  labels,
  *,
  targets: str = "classes",
  name: str = "arrays",
  num_classes: int | None = None,
  is_test=None,
  groups=None,
  client=None,
  channels: str | None = None,
  mean: np.ndarray | float | None = None,
  std: np.ndarray | float | None = None,
  standardize: bool = False,
  feature_names: Sequence[str] | None = None,
) -> Dataset:
  """Makes a dataset from any pair of arrays.

  They may be arrays of NumPy, JAX or PyTorch, columns of pandas, or lists. What
  is odd about them is said in a warning, and the way to say that it is meant:
  classes without samples, or floats for classes (`num_classes`); inputs far
  from 1 in size, such as bytes, which are used as they are (`std`); images with
  their channels first, which are moved (`channels`); features that are the same
  in all samples; and clients with one sample alone, or none to train on.

  Args:
    inputs: `[samples, ...]` real numbers. uint8 stays uint8, anything else
      becomes float32. Tensors on another device or with gradients are copied
      from there, without these.
    labels: `[samples]` or `[samples, 1]` whole numbers, which are the classes;
      or text, of which each is a class: which one is printed, and is in
      `class_names`. Or what `targets` says.
    targets: What labels are: "classes"; "values", real numbers, `[samples]` or
      `[samples, width]`, for regression; or "multi_label", `[samples, labels]`
      of 0 and 1, or bools: which of several labels a sample has.
    name: What error messages call the dataset.
    num_classes: Number of classes; None: the largest label plus one. Of other
      targets, the number of columns.
    is_test: `[samples]` bool, or None: there is no test split.
    groups: `[samples]` ids of any type, the natural owner of each sample, or
      None. A client may get several, see "natural" of `partition`.
    client: The same where the owners are the clients themselves, of which
      `make_federation` makes one each.
    channels: "last" or "first", where images have their channels. None: that is
      found out.
    mean: Subtracted from the inputs when a batch is drawn, in raw units. None:
      nothing.
    std: What they are then divided by, in raw units. None: nothing.
    standardize: Whether both are those of the training samples of all clients:
      of each feature, `[samples, features]`; of each channel of images; or
      else of all numbers together. What is constant is not divided.
    feature_names: What warnings call features, `[samples, features]`.

  Returns:
    The dataset.

  Raises:
    ValueError: If the arrays do not make a dataset; the message names the
      field, its value and what is allowed.

  Examples:
    >>> inputs = np.random.default_rng(0).normal(size=(6, 3))
    >>> data = qj.from_arrays(inputs, [0, 1, 2, 0, 1, 2])
    >>> data.inputs.shape, data.inputs.dtype, data.num_classes
    ((6, 3), dtype('float32'), 3)
    >>> qj.from_arrays(inputs, inputs[:, :2], targets="values").labels.shape
    (6, 2)
  """
  raw = arrays.real_array("inputs", inputs)
  raw, (mean, std) = images.with_channels_last(raw, channels, (mean, std))
  read, num_classes, class_names = targets_lib.read(
    labels, targets, num_classes
  )
  if client is not None and groups is not None:
    raise ValueError("client: must be left out beside groups, which are both")
  field, owners = ("groups", groups) if client is None else ("client", client)
  group_names = None
  if owners is not None:
    owners, group_names = arrays.names(field, owners)
    if owners.shape != raw.shape[:1]:
      raise ValueError(
        f"{field}.shape={owners.shape}: must be ({len(raw)},), one entry per "
        "row of inputs"
      )
  tests = None if is_test is None else arrays.bools("is_test", is_test)
  dataset = Dataset(
    name=name,
    inputs=raw if raw.dtype == np.uint8 else _as_float32(raw),
    labels=read,
    num_classes=num_classes,
    is_test=tests,
    groups=owners,
    mean=0.0 if mean is None else mean,
    std=1.0 if std is None else std,
    group_names=group_names,
    class_names=class_names,
  )
  given = std is not None
  if standardize:
    if given or mean is not None:
      raise ValueError(
        "standardize=True: must be False where mean or std are given"
      )
    mean, std = _scale(raw if tests is None else raw[~tests])
    dataset, given = dataclasses.replace(dataset, mean=mean, std=std), True
  oddities.warn_of_size(raw, dataset.mean, dataset.std, given=given)
  width = raw.shape[-1] if raw.ndim == 2 else None
  if feature_names is not None and len(feature_names) != (width or 0):
    raise ValueError(
      f"feature_names={checks.shown(feature_names)}: must be "
      + ("left out" if width is None else f"{width} names")
      + f" for inputs of the shape {raw.shape}"
    )
  oddities.warn_of_constants(dataset.inputs, feature_names)
  if client is not None and owners is not None:
    if tests is None:
      oddities.warn_of_single_samples(owners, group_names)
    else:
      oddities.warn_of_tests_alone(owners, tests, group_names)
  return dataset


def _scale(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation, see `standardize` of `from_arrays`."""
  if not len(inputs):
    raise ValueError("standardize=True: must be False without training samples")
  last = inputs.ndim in (2, 4)
  flat = inputs.reshape(-1, inputs.shape[-1] if last else 1)
  rows = max(1, _BLOCK // flat[:1].nbytes)
  blocks = range(0, len(flat), rows)

  def mean_of(fn) -> np.ndarray:
    sums = [fn(flat[i : i + rows].astype(np.float64)) for i in blocks]
    return np.sum(sums, axis=0) / len(flat)

  mean = mean_of(lambda x: x.sum(axis=0))
  std = np.sqrt(mean_of(lambda x: ((x - mean) ** 2).sum(axis=0)))
  return mean, np.where(std > 0, std, 1.0)


def _as_float32(inputs: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore", under="ignore"):
    cast = inputs.astype(np.float32)
  wrong = np.isinf(cast)
  if wrong.any():
    # An infinite one is left to Dataset.
    number = inputs[wrong][np.argmax(np.isfinite(inputs[wrong]))]
    if np.isfinite(number):
      raise ValueError(
        f"inputs={number}: must be at most {checks.LARGEST:.2g} in size, which "
        "float32 holds; divide them by their standard deviation"
      )
  if inputs.any() and not cast.any():
    raise ValueError(
      f"inputs={np.abs(inputs).max()}: must be larger, as less than "
      f"{checks.SMALLEST:.2g} is 0 in float32; divide them by their standard "
      "deviation"
    )
  return cast


def from_npy(
  inputs_path: str | os.PathLike[str],
  labels_path: str | os.PathLike[str],
  *,
  targets: str = "classes",
  num_classes: int | None = None,
  channels: str | None = None,
  mean: np.ndarray | float | None = None,
  std: np.ndarray | float | None = None,
  standardize: bool = False,
) -> Dataset:
  """Reads a dataset from two `.npy` files, see `from_arrays`.

  Args:
    inputs_path: File of the inputs, `[samples, ...]`.
    labels_path: File of the labels, `[samples]` whole numbers, or what
      `targets` says.
    targets: See `from_arrays`.
    num_classes: Likewise.
    channels: Likewise.
    mean: Likewise.
    std: Likewise.
    standardize: Likewise.

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
    targets=targets,
    name=os.path.basename(inputs_path),
    num_classes=num_classes,
    channels=channels,
    mean=mean,
    std=std,
    standardize=standardize,
  )
