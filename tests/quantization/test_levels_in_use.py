"""Tests of branches by the levels in use."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization import codebook_tree, levels_in_use, proximal
from quped_jax.quantization.codebook import Codebook, init_codebook
from quped_jax.quantization.soft_quantizer import soft_quantize
from quped_jax.simulation.program import Program
from tests import lowering

X = jnp.asarray(np.random.default_rng(0).normal(size=60), jnp.float32)
BITS = (1, 2, 4, 32)


def books(**static) -> list[Codebook]:
  made = [init_codebook(X, bits, 16) for bits in BITS]
  return [dataclasses.replace(book, **static) for book in made]


def stacked(**static) -> Codebook:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *books(**static))


@pytest.mark.parametrize(
  ("bits", "mixed"),
  [
    ((32,), False),
    ((1, 2), False),
    ((4, 8), False),
    ((2, 3), True),
    ((1, 32), True),
    ((32, 4), True),
  ],
)
def test_precisions_are_mixed_if_they_would_take_different_branches(
  bits, mixed
):
  assert levels_in_use.are_mixed(bits) is mixed


def test_the_most_levels_are_one_number_for_all_under_vmap():
  levels = jnp.array([0, 4, 16])

  def gated(levels):
    return jax.lax.cond(
      levels_in_use.most(levels) > 4, lambda: levels, lambda: -levels
    )

  # A branch of one for all, and no selection.
  assert "cond" in str(jax.make_jaxpr(jax.vmap(gated))(levels))
  np.testing.assert_array_equal(jax.vmap(gated)(levels), levels)
  np.testing.assert_array_equal(jax.vmap(gated)(levels[:2]), -levels[:2])
  assert int(levels_in_use.most(levels)) == 16
  nested = jax.vmap(jax.vmap(levels_in_use.most, out_axes=None), out_axes=None)
  assert int(nested(jnp.arange(6).reshape(2, 3))) == 5


def value_and_gradients(x, book):
  def total(x, centers):
    return jnp.sum(
      jnp.sin(soft_quantize(x, dataclasses.replace(book, centers=centers)))
    )

  return jax.value_and_grad(total, argnums=(0, 1))(x, book.centers)


def moved(x, book, norm):
  mu = book.centers + 0.1
  return (
    proximal.weights_prox(x, book, 0.05, norm),
    proximal.centers_prox(mu, x, book, 1e-3, norm),
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "fn",
  [
    value_and_gradients,
    functools.partial(moved, norm="l1"),
    pytest.param(functools.partial(moved, norm="l2"), marks=pytest.mark.long),
  ],
)
@pytest.mark.parametrize("copies", [1, 400])
def test_branches_give_what_programs_without_them_give(fn, copies):
  x = jnp.tile(X, copies)  # Few weights, and more than have such a branch.
  for plain, mixed in zip(books(), books(mixed=True), strict=True):
    close(jax.jit(fn)(x, mixed), jax.jit(fn)(x, plain))
  mapped = jax.jit(jax.vmap(fn, in_axes=(None, 0)))
  close(mapped(x, stacked(mixed=True)), mapped(x, stacked()))


@pytest.mark.slow
@pytest.mark.parametrize("most", [0, 2, 4, 16])
def test_levels_that_no_learner_has_cost_nothing_and_change_nothing(most):
  for book in books():
    if book.levels > most:
      continue
    bounded = dataclasses.replace(book, most=most)
    close(value_and_gradients(X, bounded), value_and_gradients(X, book))
    for norm in proximal.NORMS:
      close(moved(X, bounded, norm), moved(X, book, norm))
  assert dataclasses.replace(book, most=most).in_room().max_levels == most


def close(got, want):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6),
    got,
    want,
  )


def test_full_precision_branches_around_everything():
  full = init_codebook(X, 32, 16)
  mixed = dataclasses.replace(full, mixed=True)
  used = jax.jit(lambda c: jnp.asarray(levels_in_use.in_use([c])))
  assert not used(mixed)
  assert used(full)  # Of which nothing is known while tracing.
  assert used(dataclasses.replace(books()[0], mixed=True))
  none = dataclasses.replace(full, most=0)
  assert levels_in_use.in_use([none]) is False
  assert levels_in_use.in_use([]) is False
  assert levels_in_use.in_use([none, full]) is True


@pytest.mark.parametrize("platform", lowering.ACCELERATORS)
def test_accelerators_do_not_branch(platform):
  mixed, plain = (
    lowering.text(
      Program(value_and_gradients),
      platform,
      X,
      dataclasses.replace(books()[2], mixed=is_mixed),
    )
    for is_mixed in (True, False)
  )
  assert mixed == plain


def test_trees_of_codebooks_know_their_program():
  tree = {"a": books()[0], "b": codebook_tree.full_precision(X)}
  known = codebook_tree.in_program(tree, most=2, mixed=True)
  assert (known["a"].most, known["a"].mixed) == (2, True)
  assert known["b"] == tree["b"]
  forgotten = codebook_tree.with_static(known, tree)
  assert (forgotten["a"].most, forgotten["a"].mixed) == (None, False)


def test_fewer_levels_than_a_codebook_has_are_refused():
  tree = {"a": books()[1], "b": codebook_tree.full_precision(X)}
  codebook_tree.check_most(tree, 4)
  codebook_tree.check_most(tree, None)
  with pytest.raises(ValueError, match="most=3: must be at least 4"):
    codebook_tree.check_most(tree, 3)


def which(book, size):
  """Which branch a CPU takes."""

  def told(number):
    return lambda x: x + number

  branches = levels_in_use.Branches(told(1), told(2), told(3), told(4))
  return jax.jit(lambda book, x: levels_in_use.branch(book, size, branches, x))(
    book, jnp.float32(0)
  )


@pytest.mark.parametrize(
  ("bits", "size", "taken"),
  [
    (32, 100, 1),
    (2, 100, 2),
    (4, 100, 3),
    (32, 10**6, 1),
    (2, 10**6, 3),
    (4, 10**6, 3),
  ],
)
def test_a_cpu_takes_the_branch_that_the_levels_ask_for(bits, size, taken):
  book = init_codebook(X, bits, 16)
  mixed = dataclasses.replace(book, mixed=True)
  assert which(mixed, size) == taken
  assert which(book, size) == 3


@pytest.mark.parametrize("mixed", [False, True])
def test_programs_branch_on_a_cpu_if_precisions_are_mixed(mixed):
  book = dataclasses.replace(books()[2], mixed=mixed)
  text = lowering.text(Program(value_and_gradients), "cpu", X, book)
  plain = lowering.text(Program(value_and_gradients), "cpu", X, books()[2])
  assert (text.count("stablehlo.case") > plain.count("stablehlo.case")) is mixed
