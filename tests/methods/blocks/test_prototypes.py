from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods.blocks import prototypes
from quped_jax.methods.blocks.prototypes import ClassMeans, Prototypes
from tests import tiny


def drawn(seed, *shape) -> Any:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_class_means_are_those_of_a_clients_own_samples():
  """Client 0 has 5 of at most 23 samples: the padding does not count."""
  federation = tiny.make_federation((5, 23))
  data = federation.client(jnp.int32(0))
  model = qj.create_model("mlp", tiny.CLASSES, features=(3,))
  params, stats = model.init(jax.random.key(0), federation.example())
  found = jax.jit(
    lambda params: prototypes.class_means(
      model, params, stats, data, tiny.CLASSES
    )
  )(params)
  batch = data.batch(jnp.arange(5))
  layer = params["first"]
  features = np.maximum(batch.inputs @ layer["kernel"] + layer["bias"], 0)
  labels = np.asarray(batch.labels)
  for label in range(tiny.CLASSES):
    own = features[labels == label]
    assert found.counts[label] == len(own)
    expected = own.mean(0) if len(own) else np.zeros(3)
    np.testing.assert_allclose(found.means[label], expected, atol=1e-5)


def test_only_samples_of_known_classes_are_drawn_to_prototypes():
  features, means = drawn(0, 4, 3), drawn(1, 3, 3)
  labels = jnp.array([0, 1, 2, 1])
  known = Prototypes(means, jnp.array([True, True, False]))
  found = prototypes.squared_distance(features, labels, known)
  expected = sum(
    np.sum((features[b] - means[labels[b]]) ** 2) for b in (0, 1, 3)
  )
  np.testing.assert_allclose(found, expected / (4 * 3), rtol=1e-5)
  nothing = prototypes.nothing_known(3, 3)
  assert prototypes.squared_distance(features, labels, nothing) == 0


def test_the_last_layer_of_prototypes_chooses_the_nearest_one_known():
  features, means = drawn(0, 50, 3), drawn(1, 5, 3)
  known = jnp.array([True, False, True, True, False])
  layer = prototypes.nearest(Prototypes(means, known))
  logits = features @ layer["kernel"] + layer["bias"]
  apart = np.sum((features[:, None] - means[None]) ** 2, axis=-1)
  apart = np.where(known, apart, np.inf)
  chosen = np.argmax(logits, axis=1)
  np.testing.assert_array_equal(chosen, np.argmin(apart, axis=1))
  assert len(np.unique(chosen)) == 3


def test_counts_that_cannot_be_true_are_found():
  means = jnp.zeros((2, 3))
  for counts, possible in (((3, 4), True), ((3, 5), False), ((-1, 2), False)):
    message = ClassMeans(means, jnp.array(counts, jnp.float32))
    assert prototypes.plausible(message, 7).counts == possible


def build(name, models, classes=True):
  federation = tiny.make_federation((9, 9))
  settings = tiny.make_settings(name, 2, bits=(32,))
  training = make_training(settings)
  return qj.methods.get_method(name).build(
    qj.methods.api.Models(shared=models["a"], clients=models),
    training._replace(classes=classes),
    settings.options(),
    federation,
  )


@pytest.mark.parametrize("name", ["fedproto", "fedtgp"])
def test_networks_must_have_features_of_one_width(name):
  def mlp(*widths):
    return qj.create_model("mlp", tiny.CLASSES, features=widths)

  assert build(name, {"a": mlp(8, 5), "b": mlp(5)})
  with pytest.raises(ValueError, match="'b'.*must have 5 features.*got 6"):
    build(name, {"a": mlp(8, 5), "b": mlp(6)})
  with pytest.raises(ValueError, match="'mlp': must have `features` and a `h"):
    build(name, {"a": mlp(5)._replace(head=None)})
  with pytest.raises(ValueError, match=f"over classes with method='{name}'"):
    build(name, {"a": mlp(5)}, classes=False)
