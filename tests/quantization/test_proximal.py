import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.quantization.codebook import Codebook, init_codebook, nearest
from quped_jax.quantization.proximal import centers_prox, weights_prox

few = settings(deadline=None, max_examples=40)
MAX_LEVELS = 8
WEIGHTS = 48

weights_prox_jit = jax.jit(weights_prox, static_argnames="norm")
centers_prox_jit = jax.jit(centers_prox, static_argnames=("norm", "method"))
init_codebook_jit = jax.jit(
  init_codebook, static_argnames=("bits", "max_levels", "granularity")
)

# Eighths: coincide with each other and with levels, and are exact.
eighths = st.integers(-40, 40).map(lambda k: k / 8)
anything = st.one_of(eighths, st.floats(-6, 6, width=32))
level_lists = st.lists(
  anything, min_size=2, max_size=MAX_LEVELS, unique=True
).map(sorted)
weight_lists = st.lists(anything, min_size=WEIGHTS, max_size=WEIGHTS)
thresholds = st.one_of(
  st.sampled_from([0.0, 1e-3, 0.125, 50.0]), st.floats(0, 3)
)


def make_codebook(levels, max_levels=MAX_LEVELS, padding=0.3):
  """The padding is not a level, but lies among the weights."""
  tail = [padding] * (max_levels - len(levels))
  return Codebook(
    jnp.asarray([*levels, *tail], jnp.float32), jnp.int32(len(levels))
  )


def minimise(objective, low, high):
  """Brute force: golden sections of convex functions, side by side.

  Args:
    objective: maps points `[...]` to values `[...]`, in float64.
    low: where to search, `[...]`.
    high: where to search, `[...]`.
  """
  ratio = (np.sqrt(5) - 1) / 2
  for _ in range(80):
    left = high - ratio * (high - low)
    right = low + ratio * (high - low)
    smaller = objective(left) < objective(right)
    low, high = np.where(smaller, low, left), np.where(smaller, right, high)
  return (low + high) / 2


def distance(difference, norm):
  return np.abs(difference) if norm == "l1" else difference**2


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_weights_prox_is_the_brute_force_minimiser(norm):
  @given(levels=level_lists, y=weight_lists, threshold=thresholds)
  @few
  def check(levels, y, threshold):
    y = np.asarray(y, np.float32)
    x = np.asarray(
      weights_prox_jit(y, make_codebook(levels), threshold, norm=norm)
    )
    column = np.asarray(levels)[:, None]

    def towards(level, x):
      return (x - y) ** 2 / 2 + threshold * distance(x - level, norm)

    def objective(x):
      return np.min(towards(column, x), axis=0)

    # Convex for each single level; the best of their minimisers is the
    # minimiser.
    each = minimise(
      functools.partial(towards, column),
      np.minimum(y, column) - 0.1,
      np.maximum(y, column) + 0.1,
    )
    index = np.argmin(towards(column, each), axis=0)
    best = np.take_along_axis(each, index[None], axis=0)[0]
    # Between two levels both sides may be minimisers: compare the values.
    gap = objective(x.astype(np.float64)) - objective(best)
    assert np.all(gap < 1e-5 * (1 + threshold))
    order = np.sort(distance(y - column, "l1"), axis=0)
    clear = order[1] - order[0] > 1e-2
    np.testing.assert_allclose(x[clear], best[clear], atol=2e-5)

  check()


def test_l1_stops_at_the_level_and_shrinks_by_the_threshold():
  codebook = make_codebook([-1.0, 1.0])
  y = jnp.array([-1.5, -1.25, -0.9, 0.0, 0.5, 1.0, 3.0])
  np.testing.assert_allclose(
    weights_prox_jit(y, codebook, 0.25),
    [-1.25, -1.0, -1.0, -0.25, 0.75, 1.0, 2.75],
    atol=1e-6,
  )


def test_l2_is_a_weighted_mean_with_the_level():
  codebook = make_codebook([-1.0, 1.0])
  y = jnp.array([-1.5, 0.0, 0.5, 1.0, 3.0])
  np.testing.assert_allclose(
    weights_prox_jit(y, codebook, 1.5, norm="l2"),
    (y + 3 * jnp.array([-1.0, -1.0, 1.0, 1.0, 1.0])) / 4,
    atol=1e-6,
  )


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_large_threshold_quantizes(norm):
  y = jax.random.normal(jax.random.key(0), (100,))
  codebook = init_codebook_jit(y, bits=2)
  x = weights_prox_jit(y, codebook, 1e6, norm=norm)
  np.testing.assert_allclose(
    x, codebook.centers[nearest(y, codebook)], atol=1e-5
  )


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_threshold_zero_is_the_identity(norm):
  y = jax.random.normal(jax.random.key(0), (1000,))
  codebook = init_codebook_jit(y, bits=3)
  np.testing.assert_allclose(
    weights_prox_jit(y, codebook, 0.0, norm=norm), y, rtol=0, atol=5e-7
  )
  mu = codebook.centers + 0.1
  moved = centers_prox_jit(mu, y, codebook, 0.0, norm=norm)
  np.testing.assert_allclose(moved, mu, rtol=0, atol=5e-7)
  subgradient = centers_prox_jit(
    mu, y, codebook, 0.0, norm="l1", method="subgradient"
  )
  np.testing.assert_array_equal(subgradient, mu)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("max_levels", [2, 16])
def test_full_precision_stays_to_the_bit(norm, max_levels):
  y = jax.random.normal(jax.random.key(0), (100,)) * 1e-3
  codebook = init_codebook_jit(y, bits=32, max_levels=max_levels)
  np.testing.assert_array_equal(
    weights_prox_jit(y, codebook, 0.7, norm=norm), y
  )
  mu = jnp.arange(float(max_levels))
  for method in ("exact", "subgradient"):
    np.testing.assert_array_equal(
      centers_prox_jit(mu, y, codebook, 0.7, norm=norm, method=method), mu
    )


def assign(x, levels):
  """Index of the nearest level by brute force, the lower one at a tie."""
  return np.argmin(np.abs(x[:, None] - np.asarray(levels)), axis=1)


# For the levels' map: levels whose midpoints and distances float32 holds
# exactly, so that brute force and library cannot assign a weight differently.
exact_levels = st.lists(
  eighths, min_size=2, max_size=MAX_LEVELS, unique=True
).map(sorted)
shifts = st.lists(anything, min_size=MAX_LEVELS, max_size=MAX_LEVELS)
atoms = st.one_of(
  st.lists(eighths, min_size=WEIGHTS, max_size=WEIGHTS),
  st.lists(st.sampled_from([0.5, 1.0]), min_size=WEIGHTS, max_size=WEIGHTS),
  weight_lists,
)


def bracket(mu, x, threshold):
  """From mu_k to mu_k + t (#above - #below), for the weights of one level."""
  end = mu + threshold * (np.sum(x > mu) - np.sum(x < mu))
  # A weight that equals mu_k may pull to either side.
  slack = threshold * np.sum(x == mu)
  return min(mu, end - slack), max(mu, end + slack)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_centers_prox_is_the_brute_force_minimiser(norm):
  @given(levels=exact_levels, shift=shifts, x=atoms, threshold=thresholds)
  @few
  def check(levels, shift, x, threshold):
    x = np.asarray(x, np.float32)
    codebook = make_codebook(levels)
    mu = np.asarray(codebook.centers + 0.3 * np.asarray(shift, np.float32))
    moved = np.asarray(centers_prox_jit(mu, x, codebook, threshold, norm=norm))
    index = assign(x, levels)
    for k in range(len(levels)):
      members = x[index == k].astype(np.float64)

      def objective(v, k=k, members=members):
        pull = np.sum(distance(members - v[..., None], norm=norm), axis=-1)
        return (v - mu[k]) ** 2 / 2 + threshold * pull

      if len(members) == 0:
        assert moved[k] == mu[k]
        continue
      low, high = bracket(mu[k], members, threshold)
      if norm == "l2":
        low = min(mu[k], members.min())
        high = max(mu[k], members.max())
      best = minimise(objective, low - 1e-3, high + 1e-3)
      width = high - low if norm == "l1" else 0.0
      size = 1 + np.abs(mu[k]) + (threshold * len(members) if width else 0)
      assert abs(moved[k] - best) <= 1e-4 * width + 3e-6 * size
    np.testing.assert_array_equal(moved[len(levels) :], mu[len(levels) :])

  check()


def sorted_reference(mu, x, threshold):
  r"""The exact l1 map by sorting, in float64.

  The minimiser of (v - mu)^2 / 2 + t sum |x_i - v| is the median of the x_i
  and of the n + 1 points mu + t (n - 2 j), j = 0..n.
  """
  n = len(x)
  ends = mu + threshold * (n - 2 * np.arange(n + 1.0))
  return np.median(np.concatenate([x.astype(np.float64), ends]))


@pytest.mark.parametrize("threshold", [1e-7, 1e-5, 1e-3, 1.0])
def test_exact_l1_of_many_weights_agrees_with_sorting(threshold):
  rng = np.random.default_rng(0)
  x = np.concatenate(
    [rng.normal(size=60_000), rng.choice([-1.0, 0.25, 2.0], 40_000)]
  ).astype(np.float32)
  codebook = make_codebook([-1.5, -0.5, 0.5, 1.5, 9.0])
  mu = np.asarray(codebook.centers) + np.float32(0.2)
  moved = np.asarray(centers_prox_jit(mu, x, codebook, threshold))
  index = assign(x, codebook.centers[:5])
  assert moved[4] == mu[4]
  for k in range(4):
    members = x[index == k]
    best = sorted_reference(mu[k], members, threshold)
    low, high = bracket(mu[k], members, threshold)
    assert abs(best - mu[k]) > 3e-5
    assert abs(moved[k] - best) <= 1e-4 * (high - low) + 1e-6


@given(levels=exact_levels, x=weight_lists, threshold=thresholds)
@few
def test_exact_l1_never_overshoots_the_median(levels, x, threshold):
  x = np.asarray(x, np.float32)
  codebook = make_codebook(levels)
  mu = np.asarray(codebook.centers)
  moved = np.asarray(centers_prox_jit(mu, x, codebook, threshold))
  index = assign(x, levels)
  for k in range(len(levels)):
    members = np.sort(x[index == k])
    if len(members) == 0:
      continue
    median = members[(len(members) - 1) // 2], members[len(members) // 2]
    low, high = bracket(mu[k], members, threshold)
    rounding = 1e-4 * (high - low) + 1e-6
    assert moved[k] >= min(mu[k], median[0]) - rounding
    assert moved[k] <= max(mu[k], median[1]) + rounding


def test_subgradient_moves_towards_the_side_with_more_weights():
  codebook = make_codebook([-1.0, 1.0])
  x = jnp.array([-1.2, -0.5, -0.4, -1.0, 0.5, 0.6, 0.7, 1.5])
  moved = centers_prox_jit(
    codebook.centers, x, codebook, 0.01, norm="l1", method="subgradient"
  )
  np.testing.assert_allclose(moved[:2], [-0.99, 0.98], atol=1e-6)
  exact = centers_prox_jit(codebook.centers, x, codebook, 0.01)
  # One of the weights of the lower level lies on it, and holds it.
  np.testing.assert_allclose(exact[0], -1.0, atol=1e-6)
  np.testing.assert_allclose(exact[1], 0.98, atol=1e-6)


def test_subgradient_counts_at_the_old_level_and_may_overshoot():
  codebook = make_codebook([-1.0, 1.0])
  x = jnp.array([0.9, 1.1, 1.1, 1.1])
  mu = codebook.centers.at[1].set(1.2)
  moved = centers_prox_jit(
    mu, x, codebook, 1.0, norm="l1", method="subgradient"
  )
  np.testing.assert_allclose(moved[1], 1.2 + 2.0, atol=1e-6)
  exact = centers_prox_jit(mu, x, codebook, 1.0)
  np.testing.assert_allclose(exact[1], 1.1, atol=1e-3)


def test_l2_centers_average_their_weights():
  codebook = make_codebook([-1.0, 1.0, 5.0])
  x = jnp.array([-2.0, -1.0, 0.5, 1.5, 2.0])
  moved = centers_prox_jit(codebook.centers, x, codebook, 0.5, norm="l2")
  np.testing.assert_allclose(
    moved[:3], [(-1.0 - 3.0) / 3, (1.0 + 4.0) / 4, 5.0], rtol=1e-6
  )


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_level_on_an_atom_stays_there(fraction):
  """Weights that equal the level hold it against a minority of others."""
  codebook = make_codebook([-1.0, 1.0])
  x = jnp.concatenate([jnp.ones(10), jnp.full(int(9 * fraction), 1.5)])
  moved = centers_prox_jit(codebook.centers, x, codebook, 0.1)
  np.testing.assert_array_equal(moved[1], 1.0)


def test_the_assignment_is_that_of_the_old_levels():
  codebook = make_codebook([-1.0, 1.0])
  # With the moved levels, 0.4 would belong to the lower one.
  mu = jnp.array([0.3, 3.0] + [0.3] * 6)
  x = jnp.array([0.4])
  for norm, want in (("l1", 3.0 - 0.5), ("l2", (3.0 + 0.4) / 2)):
    moved = centers_prox_jit(mu, x, codebook, 0.5, norm=norm)
    np.testing.assert_allclose(moved[:2], [0.3, want], rtol=1e-5)


@pytest.mark.parametrize(
  ("norm", "method"),
  [("l1", "exact"), ("l1", "subgradient"), ("l2", "exact")],
)
def test_channels_are_a_loop(norm, method):
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(5, 8, 3)) * [0.1, 1.0, 5.0]).astype(np.float32)
  together = init_codebook_jit(x, bits=2, granularity="channel")
  mu = together.centers + 0.05
  new_x = weights_prox_jit(x, together, 0.02, norm=norm)
  new_c = centers_prox_jit(mu, x, together, 0.02, norm=norm, method=method)
  chex.assert_shape(new_c, (3, 4))
  for i in range(3):
    alone = Codebook(together.centers[i], together.levels[i])
    np.testing.assert_allclose(
      new_x[..., i],
      weights_prox_jit(x[..., i], alone, 0.02, norm=norm),
      atol=1e-6,
    )
    np.testing.assert_allclose(
      new_c[i],
      centers_prox_jit(mu[i], x[..., i], alone, 0.02, norm=norm, method=method),
      atol=1e-5,
    )


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda x, c: weights_prox(x, c, 1.0, "l3"),
      "norm='l3': must be one of l1, l2",
    ),
    (
      lambda x, c: centers_prox(c.centers, x, c, 1.0, "linf"),
      "norm='linf': must be one of l1, l2",
    ),
    (
      lambda x, c: centers_prox(c.centers, x, c, 1.0, "l1", "sorted"),
      "center_prox='sorted': must be one of exact, subgradient",
    ),
  ],
)
def test_errors_name_the_field_and_its_value(call, message):
  x = jnp.arange(4.0)
  with pytest.raises(ValueError, match=message):
    call(x, init_codebook(x, 1))


@pytest.mark.parametrize("threshold", [1e-8, 1e-7, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("seed", range(4))
def test_exact_center_prox_of_many_weights_is_finite(seed, threshold):
  # All weights of a level on one side put its minimiser at the bracket's end.
  rng = np.random.default_rng(seed)
  weights = jnp.asarray(rng.uniform(0.01, 0.04, 50_000), jnp.float32)
  weights = weights.at[::3].multiply(-1)
  book = init_codebook(weights, 2)
  mu = book.centers + jnp.asarray(rng.normal(size=4) * 1e-3, jnp.float32)
  moved = jax.jit(centers_prox)(mu, weights, book, threshold)
  assert np.all(np.isfinite(moved))
  count = np.bincount(np.asarray(nearest(weights, book)), minlength=4)
  assert np.all(np.abs(moved - mu) <= threshold * count * (1 + 1e-5) + 1e-7)


def test_only_on_cpu_is_a_bracket_divided_in_one_pass():
  """Elsewhere so many counters would leave few copies of each."""

  def prox(weights):
    codebook = Codebook(jnp.array([-1.0, 1.0]), jnp.int32(2))
    return centers_prox(codebook.centers, weights, codebook, 0.1)

  weights = jax.ShapeDtypeStruct((50_000,), jnp.float32)
  for platform in ("cpu", "cuda", "tpu"):
    exported = jax.export.export(jax.jit(prox), platforms=[platform])(weights)
    many = "tensor<20004xi32>" in exported.mlir_module()
    assert many == (platform == "cpu")
