"""Lookups by level, and sums and histograms over the weights of each level.

Everything that adds weights to few places goes through `_add`, in one of five
forms:

- "masked": one masked sum per place, a pass over the weights each.
- "together": the same sums, all in one pass.
- "scatter": each weight is added to its place. On a CPU that is one weight at a
  time, but one pass for any number of places. On an accelerator weights of one
  place wait for each other.
- "private": a scatter into many copies of the places, weight i into copy i mod
  copies, which are summed: few weights wait for each other.
- "integers": that with floats as integers, a few bits at a time, and a scatter
  for each. Their sums are the same in any order, while an accelerator adds
  floats in the order in which they happen to arrive.

For which platform JAX lowers a program decides its form (`form`), not on which
machine it is traced.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

FORMS = ("masked", "together", "scatter", "private", "integers")

# Up to this number of levels are told apart by comparisons alone: on CPU, XLA
# vectorizes these, but performs the loads of a lookup one at a time.
COMPARED = 16
# Up to this number of comparisons in all, a program is better short than fast:
# each comparison with a level is an operation of it, and takes time to compile.
# With up to so many levels it is short enough.
_FEW, _FEW_LEVELS = 2**13, 4
# Up to this number of places, sums are masked. On CPU, XLA scatters one number
# at a time. On an H200, with 1.6 million weights, comparing with 288 places
# takes 0.106 ms, and scattering into private copies of them 0.020.
_MASKED = {"cpu": 4, "accelerator": 16}
# The most copies of the places, and the most places in all copies: on an H200
# 512 copies of 288 places take 0.020 ms, 64 copies 0.036, and one 0.342. There
# are never more places than weights, or clearing them would take longest.
_COPIES, _PLACES = 512, 2**17
# Bits of a sum of integers, without its sign and one to spare.
_SUM_BITS = 30


def form(
  platform: str, places: int, weights: int, deterministic: bool = False
) -> str:
  """The fastest of the FORMS, as far as measured.

  Args:
    platform: "cpu" or "accelerator".
    places: into how many places weights are added.
    weights: how many they are.
    deterministic: whether sums of floats must be the same bit for bit in every
      run, as they are on a CPU in any form.
  """
  if places <= _MASKED[platform]:
    return "masked" if platform == "cpu" else "together"
  if platform != "cpu" and deterministic:
    return "integers"
  if platform == "cpu" or copies(places, weights) == 1:
    return "scatter"
  return "private"


def copies(places: int, weights: int) -> int:
  """How many copies of the places the form "private" makes."""
  return max(1, min(_COPIES, _PLACES // places, weights // places))


def few(x: jax.Array, levels: int) -> bool:
  """Whether the length of a program counts more than its speed.

  Args:
    x: what is compared with levels.
    levels: how many.
  """
  return levels > _FEW_LEVELS and x.size * levels <= _FEW


def entries(
  table: jax.Array, index: jax.Array, deterministic: bool = False
) -> jax.Array:
  """`table[index]`; of up to 16 entries for many indices, by comparisons.

  Args:
    table: the entries.
    index: which of them, any shape.
    deterministic: see `form`, of the sums in its gradient.
  """
  found: jax.Array = _entries(table, index, deterministic)
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _entries(table, index, deterministic):
  del deterministic
  if table.shape[0] > COMPARED or few(index, table.shape[0]):
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")
  found = jnp.broadcast_to(table[0], index.shape)
  for k in range(1, table.shape[0]):
    found = jnp.where(index >= k, table[k], found)
  return found


def _entries_fwd(table, index, deterministic):
  del deterministic
  return _entries(table, index, False), (index, table.shape[0])


def _entries_bwd(deterministic, residuals, cotangent):
  index, length = residuals
  return sum_by_level([cotangent], index, length, deterministic)[0], None


_entries.defvjp(_entries_fwd, _entries_bwd)


def sum_by_level(
  values: Sequence[jax.Array],
  index: jax.Array,
  levels: int,
  deterministic: bool = False,
) -> jax.Array:
  """Sums of values over the weights of each level.

  Args:
    values: arrays of one dtype and of the shape of `index`.
    index: the level of each weight, in `[0, levels)`.
    levels: how many levels there are.
    deterministic: see `form`.

  Returns:
    `[len(values), levels]`, of the dtype of the values. Each array takes one
    scatter or, with up to four levels on CPU and 16 elsewhere, masked sums.
  """
  return jnp.stack(
    [sum_by_bin(v, index, levels, deterministic=deterministic) for v in values]
  )


def sum_by_bin(
  values: jax.Array,
  index: jax.Array,
  bins: int,
  how: str | None = None,
  *,
  deterministic: bool = False,
) -> jax.Array:
  """Sums of values over the weights of each of many bins.

  Args:
    values: any shape.
    index: the bin of each weight, likewise, in `[0, bins)`.
    bins: how many bins there are.
    how: one of FORMS; None for that of the platform.
    deterministic: see `form`.

  Returns:
    `[bins]`, of the dtype of the values.
  """
  mode = "promise_in_bounds"
  return _add(values, index, bins, how, mode, deterministic)


def count_by_bin(
  index: jax.Array, bins: int, how: str | None = None
) -> jax.Array:
  """How many weights lie in each of many bins.

  Args:
    index: the bin of each weight, any shape, not negative; weights whose index
      is `bins` or more are not counted.
    bins: how many bins there are.
    how: one of FORMS; None for that of the platform.

  Returns:
    int32 `[bins]`, exact in every form.
  """
  return _add(jnp.int32(1), index, bins, how, "drop")


def _add(values, index, bins, how, mode, deterministic=False):
  """Adds each value, or the single value, to the place at its index."""

  def by(name):
    if name in ("masked", "together"):
      return lambda v, i: _masked(v, i, bins, name == "together")
    parts = 1 if name == "scatter" else copies(bins, index.size)
    if name == "integers" and jnp.issubdtype(values.dtype, jnp.floating):
      return functools.partial(_by_integers, bins=bins, parts=parts, mode=mode)
    return lambda v, i: _scattered(v, i, bins, parts, mode)

  on_cpu = form("cpu", bins, index.size, deterministic)
  elsewhere = form("accelerator", bins, index.size, deterministic)
  if how is None and on_cpu != elsewhere:
    return jax.lax.platform_dependent(
      values, index, cpu=by(on_cpu), default=by(elsewhere)
    )
  return by(how or on_cpu)(values, index)


def _masked(values, index, bins, together):
  values = jnp.broadcast_to(values, index.shape)
  if together:
    zero = jnp.zeros_like(values)
    return sum_together(
      [jnp.where(index == k, values, zero) for k in range(bins)]
    )
  return jnp.stack(
    [jnp.sum(values, where=index == k, dtype=values.dtype) for k in range(bins)]
  )


def sum_together(terms: Sequence[jax.Array]) -> jax.Array:
  """The sum of each array, all in one reduction.

  A reduction computes its own terms. XLA makes one kernel of it on an
  accelerator, where single sums are a kernel and a pass each; on a CPU it does
  not vectorize it.

  Args:
    terms: arrays of one shape and dtype.

  Returns:
    `[len(terms)]`, of their dtype; of less than 32 bits, they are summed in
    float32.
  """
  dtype = terms[0].dtype
  if jnp.issubdtype(dtype, jnp.floating):
    wide = jnp.promote_types(dtype, jnp.float32)
    terms = [x.astype(wide) for x in terms]
  zeros = tuple(jnp.zeros((), x.dtype) for x in terms)
  sums = jax.lax.reduce(
    tuple(terms),
    zeros,
    lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
    tuple(range(terms[0].ndim)),
  )
  return jnp.stack(sums).astype(dtype)


def _scattered(values, index, bins, parts, mode):
  index = index.ravel()
  if values.ndim:
    values = values.ravel()
  if parts > 1:
    # Whose product with the number of copies could be too large for integers.
    index = index if mode == "promise_in_bounds" else jnp.minimum(index, bins)
    index = index * parts + jnp.arange(index.size, dtype=index.dtype) % parts
  sums = jnp.zeros(bins * parts, values.dtype).at[index].add(values, mode=mode)
  if parts == 1:
    return sums
  # Of integers too, whose sums would otherwise be wider with 64 bits allowed.
  return jnp.sum(sums.reshape(bins, parts), axis=1, dtype=values.dtype)


def _by_integers(values, index, bins, parts, mode):
  """Sums of floats that are the same in any order.

  Each value is rounded to 2**-24 of the largest (for float32), and divided into
  integers of so few bits that no sum of them overflows.
  """
  wide = jnp.promote_types(values.dtype, jnp.float32)
  largest = jnp.max(jnp.abs(values), initial=0).astype(wide)
  finite = jnp.isfinite(largest)
  _, exponent = jnp.frexp(jnp.where(finite, largest, 1))
  # In two factors, of which neither is too large or too small for a float.
  half = exponent // 2
  one = jnp.ones((), wide)
  rest = values.astype(wide)
  rest = rest * jnp.ldexp(one, -half) * jnp.ldexp(one, half - exponent)
  bits = max(_SUM_BITS - values.size.bit_length(), 1)
  sums = []
  for _ in range(-(-(jnp.finfo(wide).nmant + 1) // bits)):
    rest = rest * 2**bits
    whole = jnp.round(rest)
    rest = rest - whole
    integers = whole.astype(jnp.int32)
    sums.append(_scattered(integers, index, bins, parts, mode))
  total = jnp.zeros(bins, wide)
  for each in reversed(sums):
    total = (total + each.astype(wide)) / 2**bits
  total = total * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)
  # A sum that cannot be told is NaN, as of a client that diverges.
  return jnp.where(finite, total, jnp.nan).astype(values.dtype)
