"""Rules that fit levels to weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization import level_rules
from quped_jax.quantization.codebook import init_codebook, refit

X = jnp.float32(np.random.default_rng(0).normal(0.03, 0.1, (10, 6)))
init = jax.jit(
  init_codebook,
  static_argnames=("max_levels", "granularity", "initial_levels"),
)


def levels_of(x, bits, rule):
  codebook = init(np.float32(x), bits, 16, initial_levels=rule)
  return np.asarray(codebook.centers)[: int(codebook.levels)]


def kmeans(x, bits):
  return init(np.float32(x), bits, 16, initial_levels="kmeans")


def nearest_of(x, codebook):
  """Each weight's nearest level."""
  levels = np.asarray(codebook.centers)[: int(codebook.levels)]
  x = np.asarray(x)
  return levels[np.argmin(np.abs(x[..., None] - levels), axis=-1)]


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_uniform_levels_reach_as_far_as_most_weights(bits):
  x = np.asarray(X, np.float64)
  outer = min(bits * np.abs(x).mean(), np.abs(x).max())
  want = outer * np.linspace(-1, 1, 2**bits)
  np.testing.assert_allclose(levels_of(X, bits, "uniform"), want, rtol=1e-5)
  # Of weights of one size, the outermost level is that size.
  got = levels_of(np.resize([0.5, -0.5, 0.5], X.shape), bits, "uniform")
  np.testing.assert_allclose(got[[0, -1]], [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lsbq_levels_are_sums_of_greedy_scales(bits):
  rest, scales = np.asarray(X, np.float64), []
  for _ in range(bits):
    scales.append(np.abs(rest).mean())
    rest = rest - scales[-1] * np.where(rest < 0, -1, 1)
  signs = np.array(np.meshgrid(*[[-1, 1]] * bits)).reshape(bits, -1)
  want = np.sort(np.array(scales) @ signs)
  np.testing.assert_allclose(levels_of(X, bits, "lsbq"), want, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_lsq_levels_are_multiples_of_its_first_step_size(bits):
  mean = np.abs(np.asarray(X, np.float64)).mean()
  half = 2 ** (bits - 1)
  if bits == 1:
    want = mean * np.array([-1, 1])
  else:
    want = 2 * mean / np.sqrt(half - 1) * np.arange(-half, half)
  got = levels_of(X, bits, "lsq")
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rule", level_rules.RULES)
def test_weights_all_alike_and_full_precision_have_levels_too(rule):
  for x in (np.zeros(5), np.full(5, 0.3)):
    centers = levels_of(x, 3, rule)
    assert np.all(np.isfinite(centers)) and np.ptp(centers) > 0
    assert np.all(np.diff(centers) >= 0)
  full = init(np.zeros(5, np.float32), 32, 16, initial_levels=rule)
  assert int(full.levels) == 0
  np.testing.assert_array_equal(full.centers, np.zeros(16))


@pytest.mark.parametrize("rule", ["uniform", "lsbq", "lsq"])
def test_scaled_weights_have_scaled_levels(rule):
  for factor in (1e-6, 1e6):
    got = levels_of(factor * X, 2, rule)
    want = factor * levels_of(X, 2, rule)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * factor)


@pytest.mark.slow
@pytest.mark.parametrize("rule", level_rules.RULES)
def test_a_channel_has_the_levels_of_its_own_weights(rule):
  together = init(X, 2, 16, granularity="channel", initial_levels=rule)
  for i in range(X.shape[1]):
    want = levels_of(X[:, i], 2, rule)
    np.testing.assert_allclose(together.centers[i, :4], want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", level_rules.FITTED)
def test_precisions_share_one_program_and_levels_follow_weights(rule):
  bits = jnp.array([1, 2, 3, 32])

  @jax.jit
  @jax.vmap
  def both(bits):
    made = init_codebook(X, bits, 8, initial_levels=rule)
    return made.centers, refit(2 * X, made, rule).centers

  made, other = both(bits)
  for centers, again, b in zip(made, other, bits[:3], strict=False):
    want = levels_of(X, int(b), rule)
    np.testing.assert_allclose(centers[: 2**b], want, rtol=1e-5)
    np.testing.assert_allclose(again[: 2**b], 2 * want, rtol=1e-5)
  np.testing.assert_array_equal(made[3], np.zeros(8))


def lloyd(x, centers, rounds):
  """One dimension of k-means, by hand; the errors of all rounds."""
  errors = []
  for _ in range(rounds):
    index = np.argmin(np.abs(x[:, None] - centers), axis=1)
    errors.append(np.sum((x - centers[index]) ** 2))
    used = [k for k in range(len(centers)) if np.any(index == k)]
    for k in used:
      centers[k] = x[index == k].mean()
    spare = [k for k in range(len(centers)) if k not in used]
    apart = np.abs(x - centers[index])
    if spare and apart.max() > 0:
      centers[spare[0]] = x[np.argmax(apart)]
    centers = np.sort(centers)
  return centers, errors


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_kmeans_is_lloyds_algorithm_and_its_error_never_rises(bits, seed):
  rng = np.random.default_rng(seed)
  x = rng.standard_t(2, size=60)  # Some weights lie far out.
  start = np.linspace(x.min(), x.max(), 2**bits)
  want, errors = lloyd(x, start, 50)
  assert np.all(np.diff(errors) <= 1e-9)
  codebook = kmeans(x, bits)
  got = np.asarray(codebook.centers)[: 2**bits]
  np.testing.assert_allclose(got, want, atol=1e-4)
  error = np.sum((x - nearest_of(x, codebook)) ** 2)
  np.testing.assert_allclose(error, errors[-1], rtol=1e-3)


def test_kmeans_without_error_where_there_are_enough_levels():
  # Two of the values begin next to the same level, and another is next to none.
  x = np.resize([0.0, 0.1, 1.0, 0.1, 0.0], 60)
  for bits in (2, 3):
    np.testing.assert_allclose(nearest_of(x, kmeans(x, bits)), x, atol=1e-6)
  rng = np.random.default_rng(0)
  x = rng.choice(rng.normal(size=16) ** 3, 60)
  np.testing.assert_allclose(nearest_of(x, kmeans(x, 4)), x, atol=1e-5)


def test_kmeans_moves_and_scales_with_the_weights():
  x = np.random.default_rng(1).normal(size=60)
  for bits in (1, 3):
    got, want = kmeans(2 * x + 5, bits), kmeans(x, bits)
    levels = int(got.levels)
    np.testing.assert_allclose(
      got.centers[:levels], 2 * want.centers[:levels] + 5, atol=1e-4
    )


@pytest.mark.slow
def test_a_model_quantized_once_is_closest_by_kmeans():
  params = {"hidden": {"kernel": X}, "last": {"kernel": X}}

  def error(rule):
    once = qj.quantize_once(
      params, lambda path: "hidden" in path, 2, initial_levels=rule
    )
    assert once["last"]["kernel"] is X
    assert len(np.unique(once["hidden"]["kernel"])) <= 4
    return np.sum((np.asarray(once["hidden"]["kernel"]) - X) ** 2)

  assert error("kmeans") < 0.7 * error("range")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"initial_levels": "mean"},
      "initial_levels='mean': must be one of range, uniform, lsbq, lsq, kmeans",
    ),
    (
      {"initial_levels": "lsbq", "outer_level": 1.0},
      r"outer_level=1\.0: must not be given with initial_levels='lsbq'",
    ),
  ],
)
def test_errors_name_the_field(options, message):
  with pytest.raises(ValueError, match=message):
    init_codebook(X, 2, **options)
