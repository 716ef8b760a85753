"""What is left of a trained model when it is quantized without training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import quped_jax as qj
from quped_jax import random_keys
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.quantization import codebook
from quped_jax.simulation import evaluate

BITS = (1, 2, 3, 4)
# Levels evenly spaced over the range of the weights, and by k-means.
RULES = ("range", "kmeans")


def accuracies(
  settings: qj.Settings, params: Any, stats: Any
) -> dict[str, dict[str, float]]:
  """Test accuracies of a model whose weights go to their nearest levels.

  Batch-norm statistics are estimated again, as after training.

  Args:
    settings: of the run that trained the model, of one client.
    params: its parameters.
    stats: its batch-norm statistics.

  Returns:
    {rule: {bits: accuracy}}.
  """
  built = qj.build(settings)
  data = built.federation.client(0)
  key = jax.random.fold_in(
    jax.random.key(settings.seed), random_keys.EVALUATION
  )
  # All that an evaluation needs is a key for its batches.
  context = api.Context(jnp.int32(0), key, jnp.int32(0), None, None, None)

  def measure(rule: str) -> dict[str, float]:
    changed = dataclasses.replace(
      settings, bits=(max(BITS),), initial_levels=rule, outer_level=0.0
    )
    training = make_training(changed)

    @jax.jit
    def accuracy(params, stats, data, bits):
      learner = training.learner(built.model, params, stats, bits)
      variant = training.quantized_variant(built.model, learner, data, context)
      found = evaluate.scores({"quantized": variant}, data, ("test",))
      return found["test"]["quantized"]

    return {
      str(bits): float(accuracy(params, stats, data, jnp.int32(bits)))
      for bits in BITS
    }

  return {rule: measure(rule) for rule in RULES}


def table(found: dict[str, dict[str, float]]) -> str:
  """The accuracies as lines of text."""
  titles = "".join(f"{codebook.describe_bits((b,)):>8}" for b in BITS)
  lines = ["quantized once, without training, test accuracy in %:"]
  lines.append(" " * 8 + titles)
  for rule, by_bits in found.items():
    cells = "".join(f"{100 * by_bits[str(b)]:8.1f}" for b in BITS)
    lines.append(f"{rule:8}{cells}")
  return "\n".join(lines)
