r"""FedAUX: ensemble distillation in which certainty weighs, sample by sample.

As in FedDF, the server averages the clients' models, and then distils their
ensemble on a public set without labels into the mean. A client k weighs more on
public samples v that resemble its own,

.. math::
  \min_w \; \mathrm{KL}\Big(\mathrm{softmax}\Big(
    \frac{\sum_k s_k(v)\, g_k(v)}{\sum_k s_k(v)}\Big) \,\Big\|\,
    \mathrm{softmax}(g_w(v)) \Big), \quad
  s_k(v) = \sigma\Big(\frac{a_k^\top z(v)}{c_k} + b_k\Big) + 10^{-8},

where g are logits and z the features of the model that the client receives in
its first round, of which c_k is the largest norm. The client fits a_k and b_k
once: a logistic regression that tells its own samples from public ones which
are held back for it. Its loss is the mean over n samples plus
half of lambda times the squared norm of a_k, so that 2 / (n lambda) bounds how
far one sample can move a_k, as the paper says; the released code (C = 1/lambda
in scikit-learn) has another loss, of the sum over samples, for which the bound
is wrong.

Down: w of the client's architecture. Up: the difference after the local steps,
and the scores s_k of all public samples that are distilled. Scores never
change, but count in every round. Quantized clients train as in FedAvg: the
server sees their weights in training. The batch-norm statistics of their
quantized models move, in the distillation, as those of the model do.

Left out: features that are learned on public data before the first round
(warm starts can have them; in round 0 they are else those of random weights),
and noise on a_k for differential privacy. A client that comes later takes the
features of the model that it then receives.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the distillation
starts afresh each round.

References:
  Sattler, Korjakow, Rischke, Samek, FedAUX: Leveraging Unlabeled Auxiliary Data
  in Federated Learning, 2021.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks
from quped_jax.data.federation import ClientData, Federation, PublicSet
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  divided,
  ensemble,
  logistic,
  predictions,
  requirements,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model

# Somebody must weigh something on every sample.
_LEAST = 1e-8


@dataclasses.dataclass(frozen=True)
class FedauxOptions(ensemble.EnsembleOptions):
  """Settings of FedAUX, in addition to those of `EnsembleOptions`.

  Attributes:
    held_back: share of the public set that clients tell their own samples from;
      the rest is distilled.
    penalty: lambda of the logistic regression.
  """

  method: ClassVar[str] = "fedaux"

  weighting: str = "uniform"
  held_back: float = 0.2
  penalty: float = api.traced(0.01)

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.held_back < 1:
      raise ValueError(
        f"fedaux.held_back={self.held_back}: must be between 0 and 1"
      )
    checks.positive("fedaux.penalty", self.penalty)


class FedauxClient(NamedTuple):
  """State of a client.

  Attributes:
    levels: its levels.
    scores: s, `[distilled]`; zero before its first round.
    started: bool `[]`, whether it has computed them.
  """

  levels: averaging.Levels
  scores: jax.Array
  started: jax.Array


class FedauxMessage(NamedTuple):
  """What a client sends.

  Attributes:
    model: the difference.
    scores: s, `[distilled]`.
  """

  model: api.GlobalModel
  scores: jax.Array


def divide(public: PublicSet, held_back: float) -> tuple[Any, Any]:
  """The rows of the public set to distil, and those to hold back.

  Those to hold back are evenly spaced, since a public set may be sorted.

  Raises:
    ValueError: one of the parts would be empty.
  """
  size = public.size
  count = math.ceil(held_back * size)
  if count == size:
    raise ValueError(
      f"fedaux.held_back={held_back}: must leave samples of public_size={size} "
      "to distil"
    )
  held = np.arange(count) * size // count
  rest = np.setdiff1d(np.arange(size), held)
  return rest.astype(np.int32), held.astype(np.int32)


def scores_of(
  model: Model,
  shared: api.GlobalModel,
  data: ClientData,
  held: ClientData,
  asked: ClientData,
  penalty: float,
) -> jax.Array:
  """A client's scores, `[asked]`.

  Args:
    model: the network.
    shared: the model whose features they are computed from.
    data: the client's samples.
    held: public samples to tell them from.
    asked: those to score.
    penalty: lambda.
  """
  features: Any = model.features

  def of(samples):
    return predictions.map_batches(
      lambda batch: features(shared.params, shared.stats, batch.inputs, False)[
        0
      ],
      samples,
    )

  own, others = of(data), of(held)
  both = jnp.concatenate([own, others])
  rows = jnp.arange(both.shape[0])
  first = rows < own.shape[0]
  # The client's rows end with padding.
  counts = ~first | (rows < data.train.count)
  norms = jnp.where(counts, jnp.linalg.norm(both, axis=1), 0.0)
  largest = jnp.maximum(jnp.max(norms), jnp.finfo(norms.dtype).tiny)
  fit = logistic.fit(both / largest, first, counts, penalty)
  return fit.probability(of(asked) / largest) + _LEAST


def make_fedaux(
  models: api.Models,
  training: Training,
  options: FedauxOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedAUX.

  Args:
    models: the networks; a single cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: no public set, or one too small to be divided; a single cohort
      with another architecture than the global one; a model without features.
  """
  public = requirements.check_public("fedaux", federation, labelled=False)
  for model in models.clients.values():
    divided.check_divided("fedaux", model, federation)
  rows, held = divide(public, options.held_back)

  def say(message, logits):
    return message.scores[:, None] * logits, message.scores

  def teach(before, students, heard, context):
    del before, students, context
    said = [h.said for h in heard.values()]
    total, scores = (sum(parts) for parts in zip(*said, strict=True))
    return total / jnp.maximum(scores, _LEAST)[:, None]

  method = ensemble.ensemble_method(
    models,
    training,
    options,
    federation,
    say=say,
    teach=teach,
    loss=lambda logits, teacher: training.divergence(teacher, logits, 1.0),
    rows=rows,
  )

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = method.init_client(key, inputs, server, client_id, spec, cohort)
    return FedauxClient(levels, jnp.zeros(rows.shape[0]), jnp.bool_(False))

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client, data, context, cohort)

    def compute(_, scores):
      return scores_of(
        models.clients[cohort],
        download,
        data,
        context.public.data(rows=held),
        context.public.data(rows=rows),
        options.penalty,
      ).astype(scores.dtype)

    # A loop that runs once or never takes no time once all have their scores,
    # also where clients run at once.
    scores = jax.lax.fori_loop(
      0, jnp.where(client.started, 0, 1), compute, client.scores
    )
    new = result.client._replace(
      scores=scores, started=jnp.ones_like(client.started)
    )
    return result._replace(
      client=new, message=FedauxMessage(result.message, scores)
    )

  def plausible(message, samples):
    del samples
    fine = (message.scores >= 0) & (message.scores <= 1 + 2 * _LEAST)
    return message._replace(model=True, scores=jnp.all(fine))

  return method.replace(
    init_client=init_client,
    client_update=client_update,
    plausible=plausible,
    differences=None,
  )
