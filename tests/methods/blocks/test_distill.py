import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.methods.blocks.distill import (
  kl_divergence,
  not_true_divergence,
  squared_difference,
)

BATCH, CLASSES = 3, 4
few = settings(deadline=None, max_examples=30)
logits = st.lists(
  st.floats(-20, 20, width=32),
  min_size=BATCH * CLASSES,
  max_size=BATCH * CLASSES,
).map(lambda x: np.asarray(x, np.float32).reshape(BATCH, CLASSES))
temperatures = st.floats(0.5, 8.0)

kl = jax.jit(kl_divergence, static_argnames="temperature_on")
kl_gradients = jax.jit(
  jax.grad(kl_divergence, argnums=(0, 1)), static_argnames="temperature_on"
)


def softmax(u):
  e = np.exp(u - np.max(u, axis=-1, keepdims=True))
  return e / np.sum(e, axis=-1, keepdims=True)


def reference(u, v, t, on):
  """(value, gradient to u, gradient to v) in closed form, in float64."""
  s = t if on == "both" else 1.0
  p, q = softmax(np.float64(u) / t), softmax(np.float64(v) / s)
  ratio = np.log(p) - np.log(q)
  each = np.sum(p * ratio, axis=-1, keepdims=True)
  value = t**2 * np.mean(each)
  # d KL / d u = p (log p/q - KL) / T, d KL / d v = (q - p) / (T of v).
  du = t**2 / len(u) * p * (ratio - each) / t
  dv = t**2 / len(u) * (q - p) / s
  return value, du, dv


@pytest.mark.parametrize("on", ["both", "teacher"])
def test_divergence_and_both_gradients_have_their_closed_forms(on):
  @given(u=logits, v=logits, temperature=temperatures)
  @few
  def check(u, v, temperature):
    value, du, dv = reference(u, v, temperature, on)
    got = kl(u, v, temperature, temperature_on=on)
    np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)
    got_du, got_dv = kl_gradients(u, v, temperature, temperature_on=on)
    np.testing.assert_allclose(got_du, du, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got_dv, dv, rtol=1e-3, atol=1e-4)

  check()


@pytest.mark.parametrize("on", ["both", "teacher"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients_agree_with_differences(on, temperature):
  rng = np.random.default_rng(0)
  u, v = rng.normal(size=(2, BATCH, CLASSES))
  du, dv = kl_gradients(u, v, temperature, temperature_on=on)
  step = 1e-5
  for i in np.ndindex(BATCH, CLASSES):
    bump = np.zeros_like(u)
    bump[i] = step
    for got, moved in ((du, (bump, 0.0)), (dv, (0.0, bump))):
      up, down = (
        reference(u + s * moved[0], v + s * moved[1], temperature, on)[0]
        for s in (1, -1)
      )
      np.testing.assert_allclose(got[i], (up - down) / 2 / step, atol=1e-5)


def test_divergence_of_two_classes_by_hand():
  """p = (3/4, 1/4) against q = (1/2, 1/2), and the other way round."""
  u, v = jnp.log(jnp.array([[3.0, 1.0]])), jnp.zeros((1, 2))
  forward = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
  backward = 0.5 * np.log(2 / 3) + 0.5 * np.log(2)
  np.testing.assert_allclose(kl_divergence(u, v), forward, rtol=1e-5)
  np.testing.assert_allclose(kl_divergence(v, u), backward, rtol=1e-5)
  # Logits twice as large at temperature 2 are the same distributions.
  for on, second in (("both", 2 * v), ("teacher", v)):
    np.testing.assert_allclose(
      kl_divergence(2 * u, second, 2.0, temperature_on=on),
      4 * forward,
      rtol=1e-5,
    )
  np.testing.assert_allclose(
    kl_divergence(2 * v, u, 2.0, temperature_on="teacher"),
    4 * backward,
    rtol=1e-5,
  )


@given(u=logits, v=logits, shift=st.floats(-5, 5), temperature=temperatures)
@few
def test_divergence_is_zero_at_equality_and_never_negative(
  u, v, shift, temperature
):
  np.testing.assert_allclose(
    kl(u, u + np.float32(shift), temperature), 0.0, atol=1e-3
  )
  for gradient in kl_gradients(u, u, temperature):
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
  assert kl(u, v, temperature) >= -1e-4
  # With the temperature only on the teacher, it is zero at v = u / T.
  np.testing.assert_allclose(
    kl(u, u / np.float32(temperature), temperature, temperature_on="teacher"),
    0.0,
    atol=1e-3,
  )


def test_high_temperature_gradients_are_those_of_matched_logits():
  """T^2 preserves them: they tend to (v - u) / classes of centered logits."""
  rng = np.random.default_rng(0)
  u, v = rng.normal(size=(2, BATCH, CLASSES))
  u -= u.mean(axis=1, keepdims=True)
  v -= v.mean(axis=1, keepdims=True)
  _, dv = kl_gradients(u, v, 100.0)
  np.testing.assert_allclose(
    dv, (v - u) / CLASSES / BATCH, rtol=0.05, atol=2e-3
  )


def test_distant_logits_stay_finite():
  u, v = jnp.array([[500.0, -500.0]]), jnp.array([[-500.0, 500.0]])
  np.testing.assert_allclose(kl_divergence(u, v), 1000.0)
  for gradient in kl_gradients(u, v, 1.0):
    assert np.all(np.isfinite(gradient))


def test_unknown_temperature_on_is_named():
  x = jnp.zeros((1, 2))
  with pytest.raises(
    ValueError, match="temperature_on='student': must be one of both, teacher"
  ):
    kl_divergence(x, x, temperature_on="student")


some_labels = st.lists(
  st.integers(0, CLASSES - 1), min_size=BATCH, max_size=BATCH
).map(np.asarray)
not_true = jax.jit(not_true_divergence)
not_true_gradients = jax.jit(jax.grad(not_true_divergence, argnums=(0, 1)))


def without_label(x, labels):
  return np.stack([np.delete(row, y) for row, y in zip(x, labels, strict=True)])


@given(u=logits, v=logits, labels=some_labels, temperature=temperatures)
@few
def test_the_not_true_divergence_is_that_of_the_other_classes(
  u, v, labels, temperature
):
  p, q = (without_label(x, labels) for x in (u, v))
  value, *gradients = reference(p, q, temperature, "both")
  got = not_true(u, v, labels, temperature)
  np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)
  got = not_true_gradients(u, v, labels, temperature)
  for mine, theirs in zip(got, gradients, strict=True):
    np.testing.assert_allclose(
      without_label(mine, labels), theirs, rtol=1e-3, atol=1e-4
    )
    # The true class gets no gradient at all.
    np.testing.assert_array_equal(mine[np.arange(BATCH), labels], 0.0)


def test_the_not_true_divergence_does_not_see_the_true_class():
  rng = np.random.default_rng(0)
  u, v = rng.normal(size=(2, BATCH, CLASSES)).astype(np.float32)
  labels = np.array([0, 3, 1])
  moved = v.copy()
  moved[np.arange(BATCH), labels] += (5.0, -300.0, 300.0)
  value = not_true(u, v, labels, 2.0)
  np.testing.assert_allclose(not_true(u, moved, labels, 2.0), value, rtol=1e-6)
  assert value > 0.05


def test_of_two_classes_one_is_left_and_nothing_to_learn():
  u, v = jnp.array([[3.0, -1.0]]), jnp.array([[-2.0, 4.0]])
  labels = jnp.array([1])
  assert not_true(u, v, labels) == 0
  for gradient in not_true_gradients(u, v, labels, 1.0):
    np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


def test_the_divergence_of_values_is_their_mean_squared_difference():
  u, v = np.random.default_rng(0).normal(size=(2, BATCH, 2)).astype(np.float32)
  for temperature in (1.0, 3.0):
    got, (du, dv) = jax.value_and_grad(squared_difference, argnums=(0, 1))(
      u, v, temperature, temperature_on="teacher"
    )
    np.testing.assert_allclose(got, np.mean((u - v) ** 2), rtol=1e-6)
    np.testing.assert_allclose(du, 2 * (u - v) / u.size, rtol=1e-5)
    np.testing.assert_array_equal(dv, -du)
