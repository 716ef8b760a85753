"""Accuracies of models on the samples of clients, after a round."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import random_keys
from quped_jax.data.federation import ClientData, Split
from quped_jax.models import Model
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import contexts
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.round import Engine


def accuracy(
  model: Model,
  params: Any,
  stats: Any,
  data: ClientData,
  split: str,
  batch_size: int = 500,
) -> jax.Array:
  """Share of a split's samples that a model classifies correctly.

  Args:
    model: the network.
    params: its parameters.
    stats: its running statistics, which are used as they are.
    data: the client's samples.
    split: "train", "validation" or "test".
    batch_size: samples seen at once; memory, not result, depends on it.

  Returns:
    float32 `[]`, in [0, 1]; NaN for a split without samples.
  """
  part: Split = getattr(data, split)
  batch_size = min(batch_size, max(part.max_count, 1))
  batches = -(-max(part.max_count, 1) // batch_size)

  def correct(start):
    positions = start + jnp.arange(batch_size, dtype=jnp.int32)
    batch = data.batch(jnp.minimum(positions, part.count - 1), split)
    logits, _ = model.apply(params, stats, batch.inputs, False)
    hits = jnp.argmax(logits, axis=-1) == batch.labels
    # The largest of logits that are NaN is the first: no prediction at all.
    hits &= jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.sum(hits & (positions < part.count))

  if batches == 1:
    hits = correct(jnp.int32(0))
  else:
    starts = jnp.arange(batches, dtype=jnp.int32) * batch_size
    hits = jnp.sum(jax.lax.map(correct, starts))
  share = hits.astype(jnp.float32) / jnp.maximum(part.count, 1)
  return jnp.where(part.count > 0, share, jnp.nan)


def accuracies(
  variants: Mapping[str, tuple[Any, Any, Model]],
  data: ClientData,
  splits: tuple[str, ...],
  batch_size: int = 500,
) -> dict[str, dict[str, jax.Array]]:
  """Accuracy of every variant of a client's model on every split.

  Args:
    variants: name to (params, stats, model).
    data: the client's samples.
    splits: names of splits.
    batch_size: samples seen at once.

  Returns:
    {split: {variant: accuracy}}.
  """
  return {
    split: _each_once(variants, data, split, batch_size) for split in splits
  }


def _each_once(variants, data, split, batch_size) -> dict[str, jax.Array]:
  """Evaluates variants that are one model under two names only once."""
  results: dict[str, jax.Array] = {}
  for name, variant in variants.items():
    same = [
      results[earlier]
      for earlier in results
      if all(a is b for a, b in zip(variants[earlier], variant, strict=True))
    ]
    params, stats, model = variant
    results[name] = (
      same[0]
      if same
      else accuracy(model, params, stats, data, split, batch_size)
    )
  return results


def to_every_process(results: Any, layout: Layout) -> Any:
  """Results of all devices, inside `Layout.shard`, for every process to read.

  A process can read only what is on its own devices.
  """
  return layout.gather(results) if layout.across else results


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What each device computes to evaluate clients; pure functions of a state.

  Attributes:
    splits: the splits that are evaluated.
    samples_at_once: samples of a client that are evaluated at once.
  """

  splits: tuple[str, ...]
  samples_at_once: int

  def _variants(
    self, engine, state, federation, population, cohort, client_id, client
  ):
    """A client's models after the last completed round, and its data."""
    key = jax.random.fold_in(state.key, random_keys.EVALUATION)
    context = contexts.of_client(
      engine.schedule,
      state.round,
      jax.random.fold_in(key, state.round),
      federation,
      population,
      client_id,
    )
    data = federation.client(client_id)
    variants = engine.method.variants(
      state.server, client, data, context, cohort
    )
    return variants, data

  def evaluate(self, engine: Engine, state, federation, population):
    """{cohort: {split: {variant: accuracy [slots]}}}."""

    def of_cohort(cohort):
      def one(client_id, client):
        variants, data = self._variants(
          engine, state, federation, population, cohort, client_id, client
        )
        return accuracies(variants, data, self.splits, self.samples_at_once)

      return clients_lib.map_clients(
        one,
        state.members[cohort],
        state.clients[cohort],
        chunk_size=engine.layout.chunk_size,
      )

    results = {cohort: of_cohort(cohort) for cohort in engine.sizes}
    return to_every_process(results, engine.layout)

  def primary_models(
    self,
    engine: Engine,
    state,
    index,
    federation,
    population,
    cohort,
    size,
  ):
    """The models that some clients of each device would use.

    Args:
      engine: the computations of rounds.
      state: after a round.
      index: int32 `[]`, of the part of the device's clients.
      federation: the samples.
      population: what the clients bring.
      cohort: of the clients.
      size: how many clients a part has, static.

    Returns:
      The clients' ids, int32 `[size]`, -1 in an empty slot; and (params, stats)
      of their primary variants, stacked `[size, ...]`.
    """
    members = state.members[cohort]
    place = index * size + jnp.arange(size)
    rows = jnp.minimum(place, members.shape[0] - 1)

    def one(client_id, client):
      variants, _ = self._variants(
        engine, state, federation, population, cohort, client_id, client
      )
      return variants[engine.method.primary_variant][:2]

    models = clients_lib.map_clients(
      one,
      members[rows],
      jax.tree.map(lambda x: x[rows], state.clients[cohort]),
      chunk_size=engine.layout.chunk_size,
    )
    results = jnp.where(place < members.shape[0], members[rows], -1), models
    return to_every_process(results, engine.layout)
