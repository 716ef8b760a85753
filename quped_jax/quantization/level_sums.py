"""Lookups by level, and sums and histograms over the weights of each level.

Everything that scatters over the weights goes through `_scatter_add`. That is
where a backend would have its own form: contended atomics are slow on
accelerators, passes over memory on CPUs.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Up to this number of levels are told apart by comparisons alone: on CPU, XLA
# vectorizes these, but performs the loads of a lookup one at a time.
COMPARED = 16
# Up to this number of levels, sums by level are one masked sum per level: on
# CPU, XLA scatters one number at a time.
_MASKED = 4


@jax.custom_vjp
def entries(table: jax.Array, index: jax.Array) -> jax.Array:
  """`table[index]`: up to 16 entries by comparisons, more by a gather."""
  if table.shape[0] > COMPARED:
    return table.at[index].get(mode="promise_in_bounds")
  found = jnp.broadcast_to(table[0], index.shape)
  for k in range(1, table.shape[0]):
    found = jnp.where(index >= k, table[k], found)
  return found


def _entries_fwd(table, index):
  return entries(table, index), (index, table.shape[0])


def _entries_bwd(residuals, cotangent):
  index, length = residuals
  return sum_by_level([cotangent], index, length)[0], None


entries.defvjp(_entries_fwd, _entries_bwd)


def sum_by_level(
  values: Sequence[jax.Array], index: jax.Array, levels: int
) -> jax.Array:
  """Sums of values over the weights of each level.

  Args:
    values: arrays of one dtype and of the shape of `index`.
    index: the level of each weight, in `[0, levels)`.
    levels: how many levels there are.

  Returns:
    `[len(values), levels]`, of the dtype of the values. Each array takes one
    scatter or, with up to four levels, one pass over the weights per level.
  """
  if levels <= _MASKED:
    masks = [index == k for k in range(levels)]
    return jnp.stack(
      [
        jnp.stack([jnp.sum(v, where=mask, dtype=v.dtype) for mask in masks])
        for v in values
      ]
    )
  index = index.ravel()
  return jnp.stack([sum_by_bin(v.ravel(), index, levels) for v in values])


def sum_by_bin(values: jax.Array, index: jax.Array, bins: int) -> jax.Array:
  """Sums of values over the weights of each of many bins.

  Args:
    values: `[weights]`.
    index: the bin of each weight, `[weights]`, in `[0, bins)`.
    bins: how many bins there are.

  Returns:
    `[bins]`, of the dtype of the values. One scatter.
  """
  return _scatter_add(values, index, bins, "promise_in_bounds")


def count_by_bin(index: jax.Array, bins: int) -> jax.Array:
  """How many weights lie in each of many bins.

  Args:
    index: the bin of each weight, `[weights]`, not negative; weights whose
      index is `bins` or more are not counted.
    bins: how many bins there are.

  Returns:
    int32 `[bins]`. One scatter.
  """
  return _scatter_add(jnp.int32(1), index, bins, "drop")


def _scatter_add(
  values: jax.Array, index: jax.Array, size: int, mode: str
) -> jax.Array:
  """Adds each value, or the single value, to the entry at its index."""
  return jnp.zeros(size, values.dtype).at[index].add(values, mode=mode)
