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
@settings(max_examples=5, deadline=None)
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
    assert level_sums.form(kinds[platform], places) == name
    assert lowered(platform) == lowered(platform, name)
    for other in {"scatter", "private"} - {name}:
      if level_sums.copies(places) > 1:
        assert lowered(platform) != lowered(platform, other)


def test_few_copies_are_made_of_many_places():
  for places in (1, 2, 256, 257, 1632, 2**17, 2**20):
    assert 1 <= level_sums.copies(places) <= 512
    assert level_sums.copies(places) in (1, 512) or (
      places * level_sums.copies(places) <= 2**17
    )
