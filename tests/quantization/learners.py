"""A small network whose layers are quantized, for tests of its training."""

import chex
import jax
import jax.numpy as jnp

from quped_jax.methods.blocks.distill import kl_divergence
from quped_jax.methods.blocks.losses import cross_entropy
from quped_jax.quantization.alternating import (
  Rates,
)
from quped_jax.quantization.codebook_tree import (
  init_codebooks,
)
from quped_jax.quantization.optimizers import base_optimizer
from quped_jax.quantization.training_steps import make_alternating

RATES = Rates(learning_rate=0.1, centers_learning_rate=0.05, strength=0.3)
INPUTS = jax.random.normal(jax.random.key(1), (16, 6))
LABELS = jnp.arange(16) % 3
TEACHER = 2 * jax.random.normal(jax.random.key(2), (16, 3))
ANCHOR = jax.random.normal(jax.random.key(3), (5, 4))
BITS = {"hidden/*": 2, "last/*": 1}


def make_params(key=0):
  keys = jax.random.split(jax.random.key(key), 4)
  return {
    "first": {
      "kernel": jax.random.normal(keys[0], (6, 5)),
      "bias": jax.random.normal(keys[1], (5,)),
    },
    "hidden": {"kernel": jax.random.normal(keys[2], (5, 4))},
    "last": {"kernel": jax.random.normal(keys[3], (4, 3))},
  }


def make_codebooks(params, bits=None, max_levels=4):
  return init_codebooks(
    params,
    lambda name: name.startswith(("hidden", "last")),
    BITS if bits is None else bits,
    max_levels,
  )


def network(params, stats):
  """Logits, and running means that they depend on."""
  bias = params["first"]["bias"][None]
  h = jnp.tanh(INPUTS @ params["first"]["kernel"] + bias)
  h = (h - stats["mean"][None]) @ params["hidden"]["kernel"]
  new = {
    "mean": 0.9 * stats["mean"] + 0.1,
    "size": 0.9 * stats["size"] + 0.1 * jnp.mean(h**2),
  }
  return jnp.tanh(h / (1 + stats["size"])) @ params["last"]["kernel"], new


def objective(params, stats):
  logits, stats = network(params, stats)
  return cross_entropy(logits, LABELS), stats


def taught(params, stats):
  logits, stats = network(params, stats)
  distance = kl_divergence(TEACHER, logits, 2.0)
  return 0.4 * cross_entropy(logits, LABELS) + 0.6 * distance, stats


def penalty(params):
  """Of a quantized tensor and of one that is not."""
  apart = jnp.sum((params["hidden"]["kernel"] - ANCHOR) ** 2)
  return 0.3 * apart + 0.2 * jnp.sum(params["first"]["bias"] ** 2)


def make_learner(alternating, bits=None, key=0, max_levels=4, codebooks=None):
  """A learner whose two sets of statistics differ."""
  params = make_params(key)
  stats = {"mean": jnp.full(5, 0.1), "size": jnp.float32(0.2)}
  if codebooks is None:
    codebooks = make_codebooks(params, bits, max_levels)
  learner = alternating.init(params, stats, codebooks)
  if learner.quantized_stats is not None:
    other = {"mean": jnp.full(5, -0.2), "size": jnp.float32(0.7)}
    learner = learner._replace(quantized_stats=other)
  return learner


def make(**kwargs):
  sgd = base_optimizer("sgd")
  return make_alternating(sgd, sgd, **kwargs)


def jit_step(alternating, fn=objective, extra=None):
  return jax.jit(
    lambda learner, rates: alternating.step(learner, fn, rates, extra)
  )


def leaves_close(actual, desired, atol=2e-6):
  chex.assert_trees_all_close(actual, desired, rtol=1e-5, atol=atol)


QUANTIZED = ("hidden", "last")
