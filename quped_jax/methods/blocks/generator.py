"""A generator of features given a label, and the loss that trains it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax.data.federation import ClientData
from quped_jax.models import MLP, from_linen


class Generator(NamedTuple):
  """The functions that `make_generator` returns.

  Attributes:
    init: `key -> params`.
    draw: `(key, params, frequencies) -> (noise, labels, features)`, a batch;
      `frequencies [classes]` are those of the labels, which are one-hot.
  """

  init: Callable[[jax.Array], Any]
  draw: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


def make_generator(
  width: int,
  classes: int,
  noise_size: int,
  hidden: tuple[int, ...],
  batch_size: int,
) -> Generator:
  """Makes a generator: dense layers on noise and a one-hot label.

  Args:
    width: number of features.
    classes: number of labels.
    noise_size: number of entries of the noise, which is uniform in [0, 1).
    hidden: widths of the hidden layers.
    batch_size: how many features are drawn at once.
  """
  network = from_linen(MLP(width, tuple(hidden)), "generator")

  def init(key):
    return network.init(key, jnp.zeros((1, noise_size + classes)))[0]

  def draw(key, params, frequencies):
    noise_key, label_key = jax.random.split(key)
    noise = jax.random.uniform(noise_key, (batch_size, noise_size))
    labels = jax.random.categorical(
      label_key, jnp.log(frequencies), shape=(batch_size,)
    )
    labels = jax.nn.one_hot(labels, classes)
    inputs = jnp.concatenate([noise, labels], axis=1)
    return noise, labels, network.apply(params, {}, inputs, False)[0]

  return Generator(init, draw)


def label_counts(data: ClientData, classes: int) -> jax.Array:
  """How many training samples of each label a client has, `[classes]`."""
  positions = jnp.arange(data.train.max_count, dtype=jnp.int32)
  own = positions < data.train.count
  labels = data.batch(jnp.minimum(positions, data.train.count - 1)).labels
  return jnp.sum(jax.nn.one_hot(labels, classes) * own[:, None], axis=0)


def label_shares(counts: jax.Array) -> jax.Array:
  """Each client's share of the samples of a label, `[clients, classes]`.

  Args:
    counts: samples per label, `[clients, classes]`.
  """
  return counts / jnp.maximum(jnp.sum(counts, axis=0, keepdims=True), 1)


def diversity_loss(noise: jax.Array, features: jax.Array) -> jax.Array:
  r"""In (0, 1]: smaller, the more features of different noise differ.

  .. math::
    \exp\Big(-\operatorname{mean}_{i,j} \operatorname{mean}|z_i - z_j|
    \operatorname{mean}(e_i - e_j)^2\Big)

  Both distances are means over entries, not sums or norms, so that the exponent
  is small at any width: where it is large, the loss is flat.

  Args:
    noise: e, `[batch, n]`.
    features: z, `[batch, width]`, generated from the noise.
  """
  distances = jnp.mean(jnp.abs(features[:, None] - features[None]), axis=-1)
  apart = jnp.mean((noise[:, None] - noise[None]) ** 2, axis=-1)
  return jnp.exp(-jnp.mean(distances * apart))


def ensemble_loss(
  logits: jax.Array, counts: jax.Array, labels: jax.Array
) -> jax.Array:
  """Cross entropy of the clients' mean logits.

  A client's weight is its number of samples of the label.

  Args:
    logits: `[clients, batch, classes]`.
    counts: samples per label, `[clients, classes]`.
    labels: one-hot `[batch, classes]`.
  """
  shares = jnp.matmul(label_shares(counts), labels.T, precision="highest")
  mean = jnp.sum(shares[..., None] * logits, axis=0)
  return jnp.mean(optax.softmax_cross_entropy(mean, labels))


def generator_loss(
  generator: Generator,
  head: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  heads: Any,
  counts: jax.Array,
  key: jax.Array,
  diversity: float,
) -> jax.Array:
  """The generator's loss at the server, on a batch of generated features.

  Args:
    generator: the generator's functions.
    head: `(head parameters, features) -> logits`.
    params: parameters of the generator.
    heads: the clients' head parameters, `[clients, ...]`.
    counts: their samples per label, `[clients, classes]`; labels are drawn with
      the frequencies that they have among these clients.
    key: random key for noise and labels.
    diversity: weight of the diversity loss.
  """
  noise, labels, features = generator.draw(key, params, jnp.sum(counts, axis=0))
  logits = jax.vmap(lambda own: head(own, features))(heads)
  recognised = ensemble_loss(logits, counts, labels)
  return recognised + diversity * diversity_loss(noise, features)
