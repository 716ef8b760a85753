"""Tests of what is run for a view only if it is of use."""

import jax
import jax.numpy as jnp
import pytest

from quped_jax.quantization.views import View, add_loss, where_used


def test_what_is_of_no_use_is_not_run():
  def fails():
    raise AssertionError("was run")

  assert where_used(True, lambda: 3) == 3
  assert where_used(False, fails, lambda: 4) == 4
  assert where_used(False, lambda: jnp.ones(2)).tolist() == [0, 0]

  def root(used, x):
    return where_used(used, lambda: jnp.sqrt(x), lambda: -x)

  assert jax.jit(root)(True, 9.0) == 3
  assert jax.jit(root)(False, 9.0) == -9


@pytest.mark.parametrize(
  ("counts", "total"),
  [(True, 11), (jnp.bool_(True), 11), (jnp.bool_(False), 1)],
)
def test_a_loss_is_added_if_it_counts(counts, total):
  view = View((), (), counts)
  assert add_loss(view, jnp.ones(()), jnp.float32(10)) == total
