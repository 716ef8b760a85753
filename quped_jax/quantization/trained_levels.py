"""Which numbers of a codebook are trained, and the codebook that they make."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree, level_rules
from quped_jax.quantization.codebook import Codebook

# The smallest distance between levels that is learned.
SMALLEST_STEP = 1e-8


class TrainedLevels(NamedTuple):
  """The numbers of codebooks that an optimizer of levels updates.

  Attributes:
    get: `codebooks -> numbers`, a tree of arrays.
    put: `(codebooks, numbers) -> codebooks`, with the levels in the order that
      the numbers give them: frozen assignments depend on it.
    settle: `codebook -> codebook`, in order again after an update.
  """

  get: Callable[[Any], Any]
  put: Callable[[Any, Any], Any]
  settle: Callable[[Codebook], Codebook]


def _settle_centers(codebook: Codebook) -> Codebook:
  return codebook_lib.set_centers(codebook, codebook.centers)


def _step_size(codebook: Codebook) -> Any:
  """The distance of neighbouring levels; with two of them, half of it."""
  centers = codebook_lib.view_centers(codebook)
  gaps = jnp.where(codebook.levels == 2, 2, codebook.levels - 1)
  return (centers[..., -1] - centers[..., 0]) / jnp.maximum(gaps, 1)


def _on_grid(codebook: Codebook, step: Any) -> Codebook:
  """Levels that are multiples of a step, `[]` or `[channels]`."""
  levels = codebook.levels[..., None]
  grid = level_rules.lsq_grid(levels, codebook.max_levels)
  # Padding repeats the last level.
  grid = jnp.minimum(grid, jnp.where(levels == 2, 1, levels // 2 - 1))
  centers = jnp.where(levels > 0, step[..., None] * grid, codebook.centers)
  return dataclasses.replace(codebook, centers=centers)


# Every level by itself.
CENTERS = TrainedLevels(
  codebook_tree.get_centers, codebook_tree.with_centers, _settle_centers
)

# The distance s between levels, which are multiples of it.
STEP_SIZE = TrainedLevels(
  lambda codebooks: codebook_tree.map_codebooks(_step_size, codebooks),
  lambda codebooks, steps: codebook_tree.map_codebooks(
    _on_grid, codebooks, steps
  ),
  lambda codebook: _on_grid(
    codebook, jnp.maximum(_step_size(codebook), SMALLEST_STEP)
  ),
)
