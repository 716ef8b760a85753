"""Images that users give, with their channels first or last."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays

ORDERS = ("last", "first")

# How many channels images have; a side of at least so many pixels is none.
_CHANNELS = (1, 3, 4)
_SIDE = 8


def with_channels_last(
  inputs: np.ndarray, order: str | None, scale: tuple[Any, Any]
) -> tuple[np.ndarray, tuple[Any, Any]]:
  """The inputs with channels last, as convolutions take them.

  Args:
    inputs: `[samples, ...]`.
    order: one of `ORDERS`; None: found out, where only one can be meant, and
      said in a warning if that is "first".
    scale: mean and std, in the inputs' own order; None, numbers or arrays.

  Returns:
    The inputs, a view of those given, and mean and std in their order.

  Raises:
    ValueError: there is no such order, or no axis for it.
  """
  if order is not None:
    checks.choice("channels", order, ORDERS)
    if order == "first" and inputs.ndim < 3:
      raise ValueError(
        f"channels='first': must be left out for inputs.shape={inputs.shape}, "
        "which have no axis of channels"
      )
  elif _are_first(inputs.shape):
    order = "first"
    samples, channels, *sides = inputs.shape
    now = [samples, *sides, channels]
    warnings.warn(
      f"inputs: are taken as images with their channels first, "
      f"{list(inputs.shape)}, and become {now}. Say channels='first' if that "
      "is so, and channels='last' if it is not",
      stacklevel=3,
    )
  if order != "first":
    return inputs, scale
  mean, std = (
    _moved(field, value, inputs.ndim - 1)
    for field, value in zip(("mean", "std"), scale, strict=True)
  )
  return np.moveaxis(inputs, 1, -1), (mean, std)


def _are_first(shape: tuple[int, ...]) -> bool:
  """Whether the axes of images can be meant in one way alone."""
  if len(shape) != 4 or min(shape[2:]) < _SIDE:
    return False
  return shape[1] in _CHANNELS


def _moved(field: str, value: Any, axes: int) -> Any:
  """A mean or std of each pixel and channel, in the order of the inputs."""
  if value is None:
    return None
  array = arrays.real_array(field, value)
  return np.moveaxis(array, 0, -1) if array.ndim == axes else value
