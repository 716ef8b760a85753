from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api, fedtgp
from quped_jax.methods.blocks.prototypes import ClassMeans
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def drawn(seed, *shape) -> Any:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_largest_gap_is_between_means_over_clients():
  means = drawn(0, 3, 4, 5)
  # Class 3 is nobody's.
  held = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
  centers = [
    np.mean([means[i, c] for i in range(3) if held[i, c]], axis=0)
    for c in range(3)
  ]
  gaps = [
    min(np.linalg.norm(centers[a] - centers[b]) for b in range(3) if b != a)
    for a in range(3)
  ]
  largest_gap = jax.jit(fedtgp.largest_gap)
  np.testing.assert_allclose(largest_gap(means, held), max(gaps), rtol=1e-5)
  held[:, 1:] = False
  assert largest_gap(means, held) == 0


def test_the_margin_is_on_the_true_class():
  """And a feature at a prototype has a gradient that is finite."""
  features, made = drawn(0, 6, 5), drawn(1, 4, 5)
  labels = np.array([0, 1, 2, 3, 0, 1])
  apart = np.linalg.norm(features[:, None] - made[None], axis=-1)
  logits = -apart - 2.5 * np.eye(4)[labels]
  expected = toy.hand_labels(jnp.asarray(logits), labels)
  loss = jax.jit(jax.value_and_grad(fedtgp.margin_loss, 2))
  found, _ = loss(features, labels, made, 2.5)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert found > loss(features, labels, made, 0.0)[0]
  _, grads = loss(made, jnp.arange(4), made, 0.1)
  assert np.isfinite(grads).all()


def made_of(**options):
  settings = tiny.make_settings(
    "fedtgp", 3, bits=(32,), method_options={"fedtgp": options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(5,))
  return tiny.make_method(settings, model, tiny.make_federation((9, 9, 9)))


def received(weights):
  """Messages of three clients, which hold two of four classes each."""
  counts = jnp.array([[2, 3, 0, 0], [0, 4, 1, 0], [0, 0, 2, 2]], jnp.float32)
  centers = 2 * drawn(2, 4, 5)
  means = centers[None] + 0.1 * drawn(3, 3, 4, 5)
  means = jnp.where(counts[..., None] > 0, means, 0)
  collected = api.Collected(
    jnp.arange(3, dtype=jnp.int32), ClassMeans(means, counts), weights
  )
  return {COHORT: api.Aggregate((), jnp.sum(weights), collected)}, centers


@pytest.mark.slow
def test_the_server_learns_prototypes_near_the_means_of_their_class():
  made = made_of(server_steps=200, server_learning_rate=0.1)
  server = made.init_server(jax.random.key(0), jnp.zeros((1, 6)))
  assert not server.prototypes.known.any()
  update = jax.jit(made.server_update)
  aggregates, centers = received(jnp.ones(3))
  new = update(server, aggregates, toy.at_server())
  assert new.prototypes.known.all()
  apart = fedtgp.distances(centers, new.prototypes.means)
  np.testing.assert_array_equal(np.argmin(apart, axis=1), np.arange(4))
  # The network goes on where it was; what is not heard does not count.
  nobody, _ = received(jnp.zeros(3))
  tiny.assert_same_bits(update(new, nobody, toy.at_server()), new)
  some, _ = received(jnp.array([1.0, 1.0, 0.0]))
  lied = some[COHORT].collected.parts
  lied = lied._replace(means=lied.means.at[2].set(1e6))
  false = some[COHORT].collected._replace(parts=lied)
  false = {COHORT: some[COHORT]._replace(collected=false)}
  tiny.assert_same_bits(
    update(server, false, toy.at_server()),
    update(server, some, toy.at_server()),
  )


@pytest.mark.slow
def test_before_anything_was_sent_clients_train_alone():
  own = toy.play_one_client("fedtgp").result
  plain = toy.play_one_client("local").result
  assert tiny.largest_difference(own.client.params, plain.client.params) < 1e-6


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("weight", -1.0, "fedtgp.weight=-1.0: must be at least 0"),
    ("margin", -1.0, "fedtgp.margin=-1.0: must be at least 0"),
    ("server_steps", 0, "fedtgp.server_steps=0: must be at least 1"),
    ("server_optimizer", "x", "fedtgp.server_optimizer='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedtgp": {option: value}})
