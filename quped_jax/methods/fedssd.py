r"""FedSSD: clients distil from the global model what it is credible about.

.. math::
  \mathrm{CE} + \frac1B \sum_b \sum_c
    \big( W_{bc} \, (u_{bc} - v_{bc}) \big)^2, \quad
  W_{bc} = m \max\big(0, \; M_c \, s_b - 0.1\big), \quad
  s_b = 1 - \sqrt{1 - p_b}

with u the logits of the received global model w and v those of the student; M_c
how credible w is for class c: the share of it that w knows, times one minus the
largest share of another class that w takes for it (see
`blocks/credibility.py`); and p_b the probability that w gives to the label of
sample b. So w teaches nothing about classes that it does not know, or from
samples that it gets wrong. It predicts with its running batch-norm statistics.

The server has a public set with labels, on which it computes M after each
round; before the first one M is zero. Down: w and M. Up: the difference after
the local steps. The server takes the weighted mean. Quantized clients minimise
this at x and at Q(x), with levels of their own that stay with them; w has full
precision.

The formulas are those of implementations by others, which agree but for what m
multiplies: the bracket, or M s alone. The authors' code is not public, and 0.1
and m = 1 could not be checked against the paper.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  He, Chen, Yang, Yu, Huang, Gu, Learning Critically: Selective Self
  Distillation in Federated Learning on Non-IID Data, 2022.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import credibility
from quped_jax.methods.blocks.training import Training

# What w is less credible about than this, it does not teach.
_THRESHOLD = 0.1


@dataclasses.dataclass(frozen=True)
class FedssdOptions(credibility.CredibilityOptions):
  """Settings of FedSSD: those of `CredibilityOptions`.

  The weight of what the global model knows perfectly is 0.9 times `strength`.
  """

  method: ClassVar[str] = "fedssd"


def weights(
  known: jax.Array, taught: jax.Array, labels: jax.Array
) -> jax.Array:
  """W / m, `[batch, classes]`.

  Args:
    known: M, `[classes]`.
    taught: the logits of w, `[batch, classes]`.
    labels: int `[batch]`.
  """
  chosen = jax.nn.one_hot(labels, taught.shape[-1], dtype=taught.dtype)
  p = jnp.sum(chosen * jax.nn.softmax(taught), axis=-1)
  sample = 1 - jnp.sqrt(jnp.maximum(1 - p, 0.0))
  return jax.nn.relu(known[None] * sample[:, None] - _THRESHOLD)


def make_fedssd(
  models: api.Models,
  training: Training,
  options: FedssdOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedSSD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: no labelled public set, labels that are no classes, or a cohort
      with another architecture.
  """
  return credibility.credibility_method(
    models, training, options, federation, weights
  )
