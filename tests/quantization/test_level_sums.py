import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.quantization import level_sums


def weights_of(levels, size=500):
  rng = np.random.default_rng(levels)
  index = rng.integers(0, levels, size).astype(np.int32)
  return rng.normal(size=size).astype(np.float32), index


@pytest.mark.parametrize("levels", [2, 4, 5, 16, 17, 256])
def test_entries_are_those_of_a_table(levels):
  table = np.random.default_rng(0).normal(size=levels).astype(np.float32)
  _, index = weights_of(levels)
  found = level_sums.entries(jnp.asarray(table), jnp.asarray(index))
  np.testing.assert_array_equal(found, table[index])


@pytest.mark.parametrize("levels", [2, 4, 5, 16, 17, 256])
def test_the_gradient_of_an_entry_sums_over_its_weights(levels):
  values, index = weights_of(levels)

  def loss(table):
    return jnp.vdot(values, level_sums.entries(table, jnp.asarray(index)))

  gradient = jax.grad(loss)(jnp.zeros(levels))
  want = np.bincount(index, values, levels)
  np.testing.assert_allclose(gradient, want, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 4, 5, 256])
def test_sums_by_level_are_those_of_a_loop(levels):
  values, index = weights_of(levels)
  shape = (20, 25)
  sums = level_sums.sum_by_level(
    [jnp.reshape(v, shape) for v in (values, values**2)],
    jnp.reshape(index, shape),
    levels,
  )
  want = [np.bincount(index, v, levels) for v in (values, values**2)]
  np.testing.assert_allclose(sums, want, rtol=1e-5, atol=1e-4)


def test_counts_are_exact_and_leave_out_what_lies_outside():
  index = jnp.array([0, 2, 2, 5, 6, 2**30], jnp.int32)
  counts = level_sums.count_by_bin(index, 6)
  np.testing.assert_array_equal(counts, [1, 0, 2, 0, 0, 1])
  assert counts.dtype == jnp.int32


def test_sums_by_bin_keep_the_type_of_their_values():
  values, index = weights_of(7)
  sums = level_sums.sum_by_bin(
    jnp.asarray(values, jnp.bfloat16), jnp.asarray(index), 7
  )
  assert sums.dtype == jnp.bfloat16


@given(
  bins=st.sampled_from([1, 2, 17, 300]),
  size=st.sampled_from([1, 511, 513]),
  seed=st.integers(0, 99),
)
@settings(max_examples=3, deadline=None)
def test_all_forms_give_the_same_sums_and_exact_counts(bins, size, seed):
  rng = np.random.default_rng(seed)
  index = rng.integers(0, bins, size).astype(np.int32)
  values = rng.normal(size=size).astype(np.float32)
  # What lies outside is left out, however large its index.
  beyond = np.concatenate([index, np.array([bins, 2**31 - 1], np.int32)])
  for how in level_sums.FORMS[bins > 100 :]:  # Masks are for few.
    sums = level_sums.sum_by_bin(values, jnp.asarray(index), bins, how)
    want = np.bincount(index, values, bins)
    np.testing.assert_allclose(sums, want, atol=1e-4)
    counts = level_sums.count_by_bin(jnp.asarray(beyond), bins, how)
    np.testing.assert_array_equal(counts, np.bincount(index, minlength=bins))
    assert counts.dtype == jnp.int32


def test_private_copies_are_summed_for_each_client_of_a_batch():
  rng = np.random.default_rng(0)
  index = rng.integers(0, 40, (3, 700)).astype(np.int32)
  counts = jax.vmap(lambda i: level_sums.count_by_bin(i, 40, "private"))(index)
  want = [np.bincount(row, minlength=40) for row in index]
  np.testing.assert_array_equal(counts, want)


def spread(size, dtype=np.float32):
  """Values of very different size, the largest in places of their own."""
  rng = np.random.default_rng(size)
  return (rng.normal(size=size) * 2.0 ** rng.integers(-9, 9, size)).astype(
    dtype
  )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("size", [1, 700, 2**17])
def test_sums_of_integers_are_the_same_in_any_order(size, scale):
  values = jnp.asarray(spread(size) * np.float32(scale))
  index = jnp.asarray(np.random.default_rng(1).integers(0, 40, size), jnp.int32)
  order = np.random.default_rng(2).permutation(size)
  total = jax.jit(lambda v, i: level_sums.sum_by_bin(v, i, 40, "integers"))
  sums = total(values, index)
  np.testing.assert_array_equal(sums, total(values[order], index[order]))
  want = np.bincount(index, np.asarray(values, np.float64), 40)
  # Each value is rounded to 2**-24 of the largest.
  off = 2.0**-23 * np.max(np.abs(values)) * np.sqrt(size)
  np.testing.assert_allclose(sums, want, rtol=1e-6, atol=off)


def test_sums_of_integers_for_each_client_of_a_batch():
  values = jnp.asarray(spread(2100).reshape(3, 700)) * jnp.array(
    [[1e-20], [1.0], [1e20]]
  )
  index = jnp.asarray(np.random.default_rng(1).integers(0, 40, (3, 700)))
  sums = jax.vmap(lambda v, i: level_sums.sum_by_bin(v, i, 40, "integers"))(
    values, index
  )
  for row in range(3):
    alone = level_sums.sum_by_bin(values[row], index[row], 40, "integers")
    np.testing.assert_array_equal(sums[row], alone)


def test_sums_of_integers_of_zeros_are_zero():
  index = jnp.zeros(9, jnp.int32)
  sums = level_sums.sum_by_bin(jnp.zeros(9), index, 40, "integers")
  np.testing.assert_array_equal(sums, np.zeros(40))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_sums_of_integers_do_not_hide_that_a_client_diverges(wrong):
  values = jnp.ones(9).at[3].set(wrong)
  index = jnp.arange(9, dtype=jnp.int32)
  sums = level_sums.sum_by_bin(values, index, 40, "integers")
  assert np.all(np.isnan(sums))


def test_sums_of_integers_keep_the_type_of_their_values():
  values = jnp.asarray(spread(700), jnp.bfloat16)
  index = jnp.asarray(np.random.default_rng(1).integers(0, 40, 700))
  sums = level_sums.sum_by_bin(values, index, 40, "integers")
  assert sums.dtype == jnp.bfloat16
  want = np.bincount(index, np.asarray(values, np.float64), 40)
  np.testing.assert_allclose(
    np.asarray(sums, np.float64), want, rtol=1e-2, atol=1e-2
  )


@pytest.mark.parametrize("places", [2, 4, 5, 16, 17, 288, 2**17])
def test_sums_that_must_be_the_same_again_scatter_no_floats(places):
  many = 2**20
  on_cpu = [level_sums.form("cpu", places, many, det) for det in (True, False)]
  assert on_cpu[0] == on_cpu[1]
  name = level_sums.form("accelerator", places, many, True)
  assert name == ("together" if places <= 16 else "integers")


@pytest.mark.parametrize(
  ("places", "on_cpu", "elsewhere"),
  [
    (2, "masked", "together"),
    (16, "scatter", "together"),
    (288, "scatter", "private"),
    (2**17, "scatter", "scatter"),
  ],
)
def test_the_platform_that_a_program_is_lowered_for_decides(
  places, on_cpu, elsewhere
):
  """Not the one that traces it, which is a CPU here."""
  names = {"cpu": on_cpu, "cuda": elsewhere, "tpu": elsewhere}
  kinds = {"cpu": "cpu", "cuda": "accelerator", "tpu": "accelerator"}
  index = jax.ShapeDtypeStruct((5000,), jnp.int32)

  def lowered(platform, how=None):
    """Whether it scatters, and the lengths of its arrays of integers."""
    counted = jax.jit(lambda i: level_sums.count_by_bin(i, places, how))
    exported = jax.export.export(counted, platforms=[platform])(index)
    text = exported.mlir_module()
    return "scatter" in text, set(re.findall(r"tensor<(\d+)xi32>", text))

  for platform, name in names.items():
    assert level_sums.form(kinds[platform], places, 5000) == name
    assert lowered(platform) == lowered(platform, name)
    for other in {"scatter", "private"} - {name}:
      if level_sums.copies(places, 5000) > 1:
        assert lowered(platform) != lowered(platform, other)


@pytest.mark.parametrize("weights", [1, 500, 5000, 2**30])
def test_few_copies_are_made_of_many_places_and_of_few_weights(weights):
  for places in (1, 2, 256, 257, 1632, 2**17, 2**20):
    copies = level_sums.copies(places, weights)
    assert 1 <= copies <= 512
    assert copies == 1 or places * copies <= min(2**17, weights)
    # As many as that allows.
    more = places * (copies + 1)
    assert copies == 512 or more > min(2**17, weights)


def test_short_programs_are_for_few_comparisons_with_many_levels():
  few = jnp.zeros(512)
  assert not level_sums.few(few, 4)
  assert level_sums.few(few, 16)
  assert not level_sums.few(few, 17)
  assert level_sums.few(jnp.zeros((4, 8)), 256)
