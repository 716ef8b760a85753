"""What is odd about samples that users give: said once, in a plain line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

# Networks train on numbers of about 1, and settings are chosen for them.
_SMALL, _LARGE = 1e-3, 10.0
# Of inputs whose scale is given; tokens are meant to be large.
_LARGE_IF_GIVEN = 1e6
# Inputs whose deviation is less than this part of their mean are hardly told
# apart in float32.
_FLAT = 1e-6
# From how many samples their size is estimated.
_SAMPLES = 1000
# How many features or clients a message lists.
_LISTED = 10
_BYTE = 255


def warn_of_size(
  raw: np.ndarray,
  mean: np.ndarray | float,
  std: np.ndarray | float,
  *,
  given: bool,
) -> None:
  """Warns of inputs on which networks diverge, or hardly train.

  Args:
    raw: `[samples, ...]`.
    mean: what is subtracted from them.
    std: what they are then divided by.
    given: whether a user chose that.
  """
  raw = raw[:: max(1, len(raw) // _SAMPLES)].astype(np.float64)
  some = (raw - mean) / std
  most = np.abs(some).max()
  if not most:
    return
  # Divided by the largest, as squares leave the range of numbers.
  size = most * np.sqrt(np.mean((some / most) ** 2))
  if _SMALL <= size <= (_LARGE_IF_GIVEN if given else _LARGE):
    return
  bytes_ = "" if given or not _are_bytes(raw) else ", as unscaled bytes are,"
  warnings.warn(
    f"inputs: are of size {size:.3g} (root mean square of (inputs - mean) / "
    f"std){bytes_ or ','} and are used as they are, where networks train best "
    f"on inputs of size 1. {_cure(raw)}"
    + ("" if given else "; if they are meant as they are, say so by std=1.0"),
    stacklevel=3,
  )


def _are_bytes(raw: np.ndarray) -> bool:
  """Whether inputs look like bytes: whole numbers, from 0 to 255."""
  return bool(
    (raw >= 0).all() and (raw <= _BYTE).all() and (raw == np.rint(raw)).all()
  )


def _cure(raw: np.ndarray) -> str:
  """What makes inputs of size 1 of raw ones, float64, in words."""
  mean, std = raw.mean(), raw.std()
  if std <= _FLAT * abs(mean):
    return (
      "They differ by less than float32 tells apart at their size: subtract "
      "their mean, in float64, before they become a dataset"
    )
  # As many digits as leave of the mean less than a hundredth of std.
  digits = max(4, 3 + math.ceil(math.log10(abs(mean) / std + 1)))
  return (
    f"Normalise all alike by mean={mean:.{digits}g}, std={std:.4g}, or each "
    "feature by its own mean and standard deviation by standardize=True"
  )


def warn_of_constants(
  inputs: np.ndarray, names: Sequence[str] | None = None
) -> None:
  """Warns of features that are the same in all samples.

  Pixels of images may be, and are no features.

  Args:
    inputs: `[samples, ...]`; those that are not `[samples, features]` pass.
    names: of the features; None for their numbers.
  """
  if inputs.ndim != 2 or len(inputs) < 2:
    return
  same = inputs.min(axis=0) == inputs.max(axis=0)
  constant = np.flatnonzero(same).tolist()
  features = inputs.shape[1]
  # If all are, the samples stand for something else, such as random ones.
  if not 0 < len(constant) < features:
    return
  warnings.warn(
    f"inputs: {len(constant)} of {features} features are the same in all "
    f"samples, and tell nothing: {_list(constant, names)}",
    stacklevel=3,
  )


def warn_of_single_samples(
  clients: np.ndarray, names: Sequence[str] | None
) -> None:
  """Warns of clients that cannot both train and test.

  Args:
    clients: `[samples]` numbers.
    names: what these stand for; None for nothing else.
  """
  numbers, counts = np.unique(clients, return_counts=True)
  alone: list[int] = numbers[counts == 1].tolist()
  if not alone:
    return
  warnings.warn(
    f"client: {len(alone)} of {len(numbers)} have one sample alone, which is "
    f"too few to train on and to test with: {_list(alone, names)}",
    stacklevel=3,
  )


def warn_of_tests_alone(
  clients: np.ndarray, tests: np.ndarray, names: Sequence[str] | None
) -> None:
  """Warns of clients whose samples are all for testing: there are none such.

  Args:
    clients: `[samples]` numbers.
    tests: bool `[samples]`, which are for testing.
    names: what the numbers stand for; None for nothing else.
  """
  alone: list[int] = np.setdiff1d(clients[tests], clients[~tests]).tolist()
  if not alone:
    return
  warnings.warn(
    f"client: {len(alone)} of {len(np.unique(clients))} have no samples to "
    f"train on, and are no clients of a federation: {_list(alone, names)}",
    stacklevel=3,
  )


def _list(numbers: Sequence[int], names: Sequence[str] | None) -> str:
  """The first of some features or clients, by name if they have names."""
  found = [names[i] if names else str(i) for i in numbers[:_LISTED]]
  more = ", ..." if len(numbers) > _LISTED else ""
  return ", ".join(found) + more
