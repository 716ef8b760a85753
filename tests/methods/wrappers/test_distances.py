"""Krum, Multi-Krum, Bulyan and the geometric median, against loops in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import by_precision
from quped_jax.methods.blocks import ranks
from quped_jax.methods.wrappers import distances
from tests import tiny
from tests.methods.wrappers.slots import SLOTS, absent, messages

AVERAGES = {
  "krum": functools.partial(distances.multi_krum, byzantine=1, kept=1),
  "multi_krum": functools.partial(distances.multi_krum, byzantine=1),
  "bulyan": functools.partial(distances.bulyan, byzantine=1),
  "geometric_median": distances.geometric_median,
}
each = pytest.mark.parametrize("name", AVERAGES)
JITTED = {name: jax.jit(average) for name, average in AVERAGES.items()}


def rows_of(tree) -> np.ndarray:
  """Each slot's message as one vector, float64."""
  leaves = jax.tree.leaves(tree)
  flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in leaves]
  return np.concatenate(flat, axis=1)


def row_of(tree) -> np.ndarray:
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def order_by_hand(rows: np.ndarray, byzantine: int) -> list[int]:
  """The rows' numbers, lowest score first, and of equal scores by distance."""
  scores = []
  for i, one in enumerate(rows):
    squares = sorted(
      np.sum((one - other) ** 2) for j, other in enumerate(rows) if j != i
    )
    near = sum(squares[: max(len(rows) - byzantine - 2, 1)])
    scores.append((near, sum(squares), i))
  return [i for _, _, i in sorted(scores)]


def by_hand(name: str, rows: np.ndarray, byzantine: int = 1) -> np.ndarray:
  """The same averages of the rows, from their definitions."""
  if name == "geometric_median":
    middle = rows.mean(axis=0)
    for _ in range(4):
      lengths = np.linalg.norm(rows - middle, axis=1)
      weights = 1 / np.maximum(1e-5, lengths)
      middle = weights @ rows / weights.sum()
    return middle
  if name == "bulyan":
    left, chosen = list(rows), []
    for _ in range(len(rows) - 2 * byzantine):
      best, *_ = order_by_hand(np.array(left), byzantine)
      chosen.append(left.pop(best))
    near = []
    for column in np.array(chosen).T:
      order = np.argsort(np.abs(column - np.median(column)))
      near.append(column[order[: len(rows) - 4 * byzantine]].mean())
    return np.array(near)
  kept = 1 if name == "krum" else len(rows) - byzantine - 2
  return rows[order_by_hand(rows, byzantine)[:kept]].mean(axis=0)


@each
def test_it_is_what_its_definition_gives(name):
  given = messages(SLOTS)
  for count in range(1, SLOTS + 1):
    sent = absent(SLOTS, count)
    found = row_of(JITTED[name](given, sent))
    enough = count >= distances.least_messages(name, 1)
    rows = rows_of(given)[sent]
    expected = by_hand(name, rows) if enough else np.median(rows, axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_krum_returns_an_input_to_the_bit():
  given = messages(SLOTS)
  found = row_of(JITTED["krum"](given, absent(SLOTS, 8)))
  rows = rows_of(given)[absent(SLOTS, 8)]
  assert any(np.array_equal(found, row) for row in rows)


@pytest.mark.parametrize(
  "average",
  [
    functools.partial(distances.multi_krum, byzantine=1, kept=8),
    functools.partial(distances.multi_krum, byzantine=1, kept=SLOTS),
    functools.partial(distances.bulyan, byzantine=0),
  ],
)
def test_of_all_messages_it_is_the_mean(average):
  given, sent = messages(SLOTS), absent(SLOTS, 8)
  expected = rows_of(given)[sent].mean(axis=0)
  np.testing.assert_allclose(row_of(average(given, sent)), expected, atol=1e-6)


@each
def test_it_moves_with_its_messages_and_knows_no_order(name):
  given, sent = messages(SLOTS), absent(SLOTS, 9)
  found = row_of(JITTED[name](given, sent))
  moved = jax.tree.map(lambda x: x + np.float32(3), given)
  np.testing.assert_allclose(
    row_of(JITTED[name](moved, sent)), found + 3, rtol=1e-5, atol=1e-5
  )
  order = np.random.default_rng(1).permutation(SLOTS)
  shuffled = jax.tree.map(lambda x: x[order], given)
  np.testing.assert_allclose(
    row_of(JITTED[name](shuffled, sent[order])), found, rtol=1e-5, atol=1e-6
  )


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e38, 1e15, 20.0])
def test_equal_messages_win_against_one_that_is_false(name, value):
  one = jax.tree.map(lambda x: x[0], messages(1))
  given = jax.tree.map(lambda x: np.stack([x] * SLOTS), one)
  for leaf in jax.tree.leaves(given):
    leaf[4] = value
  found = row_of(JITTED[name](given, np.ones(SLOTS, bool)))
  if name != "geometric_median":
    np.testing.assert_allclose(found, row_of(one), rtol=1e-6)
    return
  # Each step leaves about a ninth of the distance, as nine pull back.
  begin = row_of(one) if abs(value) > 1e20 or value != value else (
    0.9 * row_of(one) + 0.1 * value
  )  # fmt: skip
  far = np.linalg.norm(begin - row_of(one))
  left = np.linalg.norm(found - row_of(one))
  assert left <= far / 8**4 + 1e-6


def test_distances_do_not_cancel_far_from_zero():
  """Of messages that all are near 1e4, in float32 to a thousandth."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(SLOTS, 50)).astype(np.float32)
  far = {"x": rows + np.float32(2**14)}
  sent = np.ones(SLOTS, bool)
  exact = np.asarray(far["x"], np.float64)
  found = row_of(AVERAGES["krum"](far, sent))
  np.testing.assert_array_equal(found, by_hand("krum", exact))


def test_more_steps_come_closer_to_the_geometric_median():
  given, sent = messages(SLOTS), jnp.ones(SLOTS, bool)

  def total(steps):
    middle = row_of(distances.geometric_median(given, sent, steps))
    return np.linalg.norm(rows_of(given) - middle, axis=1).sum()

  totals = [total(steps) for steps in (0, 1, 4, 50)]
  assert totals[0] > totals[1] > totals[2] > totals[3]


@each
def test_of_parts_by_precision_it_is_the_median(name):
  """Whatever they are, they decide nothing else."""
  bits = jnp.asarray([1, 1, 1, 2, 2, 2, 2, 2, 32, 32])
  values = jnp.asarray([1.0, 2.0, 9e9, 3.0, -50.0, 4.0, 50.0, 5.0, 7.0, 8.0])

  def message(plain, value, bits):
    own = by_precision.OfPrecision(jnp.full(2, value), 3)
    return by_precision.split({"plain": plain, "own": own}, bits)

  plain, sent = messages(SLOTS), jnp.ones(SLOTS, bool)
  given = jax.vmap(message)(plain, values, bits)
  found = JITTED[name](given, sent)
  expected = ranks.median({"own": given["own"]}, sent)["own"]
  np.testing.assert_array_equal(found["own"].weights, [1, 1, 0])
  np.testing.assert_array_equal(found["own"].totals[:2], expected.totals[:2])
  alone = JITTED[name](plain, sent)
  assert tiny.largest_difference(found["plain"], alone) < 1e-6
