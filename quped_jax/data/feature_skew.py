"""Feature skew: clients whose inputs differ, whatever their labels.

A sample belongs to one client, so that its inputs are changed once, in the
dataset. Samples of nobody, such as those of a public set, stay as they are.

References:
  Li, Diao, Chen, He, Federated Learning on Non-IID Data Silos: An Experimental
  Study, 2022 (NIID-Bench; noise by client).
  Ghosh, Chung, Yin, Ramchandran, An Efficient Framework for Clustered Federated
  Learning, 2020 (rotations by client).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from quped_jax import checks
from quped_jax.data.dataset import Dataset
from quped_jax.data.partition import Partition, checked_partition

SKEWS = ("none", "noise", "rotation")

# Beside the seed of a partition, so that the two are not drawn alike.
_STREAM = 1
_QUARTERS = 4


def skew_features(
  dataset: Dataset,
  partition: Partition,
  skew: str,
  *,
  noise: float = 1.0,
  seed: int = 0,
) -> Dataset:
  """The dataset with inputs that differ from client to client.

  Args:
    dataset: The samples, which are not changed.
    partition: Who holds which of them.
    skew: "noise" adds Gaussian noise, of the standard deviations `noise` / n,
      2 `noise` / n, ..., `noise`, one for each of the n clients. "rotation"
      turns images by 0, 90, 180 or 270 degrees, each for a quarter of the
      clients. "none" leaves all as it is. Which client has what is drawn.
    noise: Standard deviation of the noisiest client's noise, where normalised
      inputs have 1.
    seed: Seed of every random choice.

  Returns:
    A dataset with the same rows. Bytes with noise are float32.

  Raises:
    ValueError: If there is no such skew, if noise is not positive, or if
      samples that are to be turned are no square images.
  """
  checks.instance("dataset", dataset, Dataset, "from_arrays")
  checks.choice("feature_skew", skew, SKEWS)
  seed = checks.whole("seed", seed, 0)
  noise = checks.number("feature_noise", noise)
  checks.positive("feature_noise", noise)
  if skew == "none":
    return dataset
  parts = checked_partition(partition, len(dataset.labels))
  rows = [
    np.concatenate(own)
    for own in zip(parts.train, parts.validation, parts.test, strict=True)
  ]
  rng = np.random.default_rng((seed, _STREAM))
  if skew == "noise":
    return _noisy(dataset, rows, noise, rng)
  return _turned(dataset, rows, rng)


def _noisy(
  dataset: Dataset,
  rows: list[np.ndarray],
  noise: float,
  rng: np.random.Generator,
) -> Dataset:
  inputs = np.array(dataset.inputs, np.float32)
  std = np.asarray(dataset.std, np.float32)
  levels = noise * (1 + rng.permutation(len(rows))) / len(rows)
  for level, own in zip(levels, rows, strict=True):
    drawn = rng.standard_normal((len(own), *inputs.shape[1:]), np.float32)
    with np.errstate(over="ignore"):
      inputs[own] += np.float32(level) * std * drawn
  if not np.isfinite(inputs).all():
    raise ValueError(
      f"feature_noise={noise}: must be less, so that inputs are numbers that "
      "float32 holds"
    )
  return dataclasses.replace(dataset, inputs=inputs)


def _turned(
  dataset: Dataset, rows: list[np.ndarray], rng: np.random.Generator
) -> Dataset:
  shape = dataset.inputs.shape[1:]
  if len(shape) < 2 or shape[0] != shape[1]:
    raise ValueError(
      f"feature_skew='rotation': must be 'none' or 'noise' for "
      f"{dataset.name!r}, whose samples, {list(shape)}, are no square images"
    )
  inputs = np.array(dataset.inputs)
  quarters = rng.permutation(len(rows)) % _QUARTERS
  for turns, own in zip(quarters, rows, strict=True):
    inputs[own] = np.rot90(inputs[own], turns, axes=(1, 2))
  return dataclasses.replace(dataset, inputs=inputs)
