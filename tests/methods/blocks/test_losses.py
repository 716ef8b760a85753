"""Losses on labels, against what they are in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.blocks import distill, losses

BATCH, CLASSES = 5, 4
LABELS = np.array([0, 3, 1, 1, 2])
LOGITS = np.random.default_rng(0).normal(size=(BATCH, CLASSES))


def log_softmax(x):
  x = x - np.max(x, axis=-1, keepdims=True)
  return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def own(x, labels=LABELS):
  """The logarithm of each sample's probability of its own class."""
  return log_softmax(x)[np.arange(len(labels)), labels]


def smoothed(x, smoothing):
  targets = (1 - smoothing) * np.eye(CLASSES)[LABELS] + smoothing / CLASSES
  return -np.mean(np.sum(targets * log_softmax(x), axis=-1))


def focal(x, gamma):
  return -np.mean((1 - np.exp(own(x))) ** gamma * own(x))


def gradient_by_differences(fn, x, step=1e-5):
  found = np.zeros_like(x)
  for i in np.ndindex(*x.shape):
    bump = np.zeros_like(x)
    bump[i] = step
    found[i] = (fn(x + bump) - fn(x - bump)) / 2 / step
  return found


SIGNS = np.random.default_rng(1).integers(0, 2, (BATCH, CLASSES)).astype(bool)
VALUES = np.random.default_rng(2).normal(size=(BATCH, CLASSES))

# Name, options, labels, and the loss of logits in NumPy.
CASES = {
  "cross entropy": ("cross_entropy", {}, LABELS, lambda x: -np.mean(own(x))),
  "smoothed": (
    "cross_entropy", {"label_smoothing": 0.1}, LABELS,
    lambda x: smoothed(x, 0.1),
  ),
  "smoothed away": (
    "cross_entropy", {"label_smoothing": 1.0}, LABELS,
    lambda x: smoothed(x, 1.0),
  ),
  "focal": ("focal", {}, LABELS, lambda x: focal(x, 2.0)),
  "focal 0.5": (
    "focal", {"focal_gamma": 0.5}, LABELS, lambda x: focal(x, 0.5)
  ),
  "focal 0": (
    "focal", {"focal_gamma": 0.0}, LABELS, lambda x: -np.mean(own(x))
  ),
  "squared error": (
    "squared_error", {}, VALUES, lambda x: np.mean((x - VALUES) ** 2)
  ),
  "binary": (
    "binary", {}, SIGNS,
    lambda x: -np.mean(
      np.where(SIGNS, np.log(1 / (1 + np.exp(-x))), np.log(1 / (1 + np.exp(x))))
    ),
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradient_are_what_it_is_by_hand(case):
  name, options, labels, by_hand = CASES[case]
  loss = losses.make_losses(name, **options).loss
  value, gradient = jax.value_and_grad(loss)(
    jnp.asarray(LOGITS, jnp.float32), jnp.asarray(labels)
  )
  np.testing.assert_allclose(value, by_hand(LOGITS), rtol=1e-5)
  np.testing.assert_allclose(
    gradient, gradient_by_differences(by_hand, LOGITS), rtol=1e-3, atol=1e-5
  )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_a_sure_sample_has_a_finite_gradient(gamma):
  for scale in (80.0, 1e4):
    logits = jnp.array([[scale, 0.0], [0.0, scale]])
    value, gradient = jax.value_and_grad(losses.focal_loss)(
      logits, jnp.array([0, 0]), gamma
    )
    # Of the first, nothing is left; of the second, cross entropy.
    np.testing.assert_allclose(value, scale / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(gradient[1], [-0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
@pytest.mark.parametrize("case", ["cross entropy", "smoothed", "focal"])
def test_what_is_no_class_is_not_hidden(case, wrong):
  name, options, *_ = CASES[case]
  loss = losses.make_losses(name, **options).loss
  assert np.isnan(loss(jnp.zeros((3, CLASSES)), jnp.array([0, wrong, 1])))


def test_numbers_of_a_loss_may_be_traced():
  def loss(smoothing):
    made = losses.make_losses("cross_entropy", label_smoothing=smoothing)
    return made.loss(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS))

  np.testing.assert_allclose(jax.jit(loss)(0.1), smoothed(LOGITS, 0.1), 1e-5)


def test_without_smoothing_it_is_cross_entropy_itself():
  made = losses.make_losses("cross_entropy", label_smoothing=0.0)
  assert made.loss is losses.cross_entropy


def test_the_divergence_is_the_counterpart_of_the_loss():
  for name, targets in losses.TARGETS.items():
    made = losses.make_losses(name)
    assert made.classes == (targets == "classes")
    wanted = distill.squared_difference
    if made.classes:
      wanted = distill.kl_divergence
    assert made.divergence is wanted


def test_an_unknown_loss_is_named():
  with pytest.raises(ValueError, match="loss='hinge': must be one of cross_"):
    losses.make_losses("hinge")
