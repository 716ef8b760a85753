"""Gradients that go straight through a function, as if it were another."""

import jax


@jax.custom_jvp
def straight_through(carrier: jax.Array, value: jax.Array) -> jax.Array:
  """The value, with the derivative of the carrier.

  Args:
    carrier: what is differentiated.
    value: what is returned, of the shape and dtype of the carrier.
  """
  del carrier
  return value


@straight_through.defjvp
def _(primals, tangents):
  return straight_through(*primals), tangents[0]
