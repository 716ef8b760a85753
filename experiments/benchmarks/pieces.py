"""Rows of suite `accelerator`: the pieces of a step, each in all its forms.

Per client of 50 under vmap, each with 1.6 million weights. What is measured
here is not public, so that another checkout may lack it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import quped_jax as qj
from experiments.benchmarks.rows import Row, Work

_UNIT = "client"
_PLACES = 288
_SHARPNESS = 10.0


def rows() -> Iterator[Row]:
  """All pieces, the most important first."""
  for levels in (2, 16, 256):
    forms = ["as chosen", "windowed"]
    if levels <= 16:
      forms[1:1] = ["dense", "together"]
    for how in forms:
      yield _row(f"soft quantizer, {levels} levels, {how}", _soft(levels, how))
  for levels in (2, 16):
    yield _row(f"center prox, l1, {levels} levels", _centers(levels))
  for how in ("private", "scatter"):
    name = f"histogram of {_PLACES} places, {how}"
    yield _row(name, _histogram(_PLACES, how))
  for levels in (2, 16):
    for how in ("together", "masked", "private", "scatter"):
      yield _row(f"sums by {levels} levels, {how}", _sums(levels, how))
  yield _row("weights prox, l1, 16 levels", _weights(16))
  yield _row("center prox, l2, 16 levels", _centers(16, "l2"))
  for dtype in ("float32", "bfloat16"):
    for form in ("auto", "native", "adaptive", "canonical"):
      yield _row(f"convolution, {dtype}, {form}", _convolution(form, dtype))


def _row(name: str, make: Callable[[bool], Work]) -> Row:
  return Row("pieces", name, _UNIT, 3.0, make)


def _many(quick: bool) -> tuple[int, int]:
  """Clients, and weights of each."""
  return (2, 2000) if quick else (50, 1_605_632)


def compiled(function: Callable[..., Any], clients: int, args: Any) -> Work:
  """A function of one client, over clients `[clients, ...]`."""
  start = time.perf_counter()
  program = jax.jit(jax.vmap(function)).lower(*args).compile()
  seconds = time.perf_counter() - start
  return Work(
    lambda: jax.block_until_ready(program(*args)), clients, lambda: seconds
  )


def _normal(seed: int, *shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def _levels(clients: int, levels: int) -> jax.Array:
  return jnp.tile(jnp.linspace(-2, 2, levels), (clients, 1))


def _soft(levels: int, how: str):
  """Value, and gradients of the weights and of the levels."""

  def make(quick):
    clients, weights = _many(quick)
    arrays = (
      _normal(0, clients, weights),
      _normal(1, clients, weights),
      _levels(clients, levels),
    )
    return compiled(_soft_form(levels, how), clients, arrays)

  return make


def _soft_form(levels: int, how: str):

  def chosen(x, cotangent, centers):
    def value(x, centers):
      book = qj.Codebook(centers, jnp.int32(levels))
      return qj.soft_quantize(x, book, _SHARPNESS)

    soft, pull_back = jax.vjp(value, x, centers)
    return soft, pull_back(cotangent)

  if how == "as chosen":
    return chosen
  from quped_jax.quantization import (
    soft_bins,
    soft_steps,
    soft_together,
    soft_window,
  )

  def form(x, cotangent, centers):
    slope = _SHARPNESS * (levels - 1) / (centers[-1] - centers[0])
    bins = soft_bins.bin_count(levels, _SHARPNESS, x.size)
    if how == "windowed":
      rest = centers, jnp.int32(levels), slope
      soft, width = soft_window.value(bins, x, *rest)
      gradients = soft_window.gradients
      return soft, gradients(bins, False, x, cotangent, *rest, width)
    if how == "together":
      return (
        soft_together.value(x, centers, slope),
        soft_together.gradients(x, cotangent, centers, slope),
      )
    return (
      soft_steps.dense_value(x, centers, slope),
      soft_steps.dense_gradients(bins, x, cotangent, centers, slope),
    )

  return form


def _indices(clients: int, weights: int, places: int) -> jax.Array:
  return jax.random.randint(
    jax.random.key(2), (clients, weights), 0, places, jnp.int32
  )


def _histogram(places: int, how: str):
  def make(quick):
    from quped_jax.quantization import level_sums

    clients, weights = _many(quick)
    return compiled(
      lambda index: level_sums.count_by_bin(index, places, how),
      clients,
      (_indices(clients, weights, places),),
    )

  return make


def _sums(levels: int, how: str):
  def make(quick):
    from quped_jax.quantization import level_sums

    clients, weights = _many(quick)
    return compiled(
      lambda x, index: level_sums.sum_by_bin(x, index, levels, how),
      clients,
      (_normal(0, clients, weights), _indices(clients, weights, levels)),
    )

  return make


def _weights(levels: int):
  def make(quick):
    from quped_jax.quantization import proximal

    clients, weights = _many(quick)
    return compiled(
      lambda x, centers: proximal.weights_prox(
        x, qj.Codebook(centers, jnp.int32(levels)), 1e-3
      ),
      clients,
      (_normal(0, clients, weights), _levels(clients, levels)),
    )

  return make


def _centers(levels: int, norm: str = "l1"):
  def make(quick):
    from quped_jax.quantization import proximal

    clients, weights = _many(quick)

    def prox(x, centers):
      book = qj.Codebook(centers, jnp.int32(levels))
      return proximal.centers_prox(centers + 0.01, x, book, 1e-7, norm)

    arrays = _normal(0, clients, weights), _levels(clients, levels)
    return compiled(prox, clients, arrays)

  return make


def _convolution(form: str, dtype: str):
  """The second convolution of CNN1: value and gradients."""

  def make(quick):
    from quped_jax.models import resolve_conv

    clients, batch, size, channels = (2, 2, 4, (2, 3))
    if not quick:
      clients, batch, size, channels = (50, 32, 14, (32, 64))
    compute = resolve_conv(form)

    def function(x, kernel, cotangent):
      def value(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return compute(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

      outputs, pull_back = jax.vjp(value, x, kernel)
      return outputs, pull_back(cotangent)

    def array(seed: int, *shape: int) -> jax.Array:
      return _normal(seed, clients, *shape).astype(dtype)

    shapes: Sequence[tuple[int, ...]] = (
      (batch, size, size, channels[0]),
      (5, 5, *channels),
      (batch, size, size, channels[1]),
    )
    arrays = tuple(array(seed, *shape) for seed, shape in enumerate(shapes))
    return compiled(function, clients, arrays)

  return make
