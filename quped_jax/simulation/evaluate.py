"""Scores of models on the samples of clients, after a round."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import random_keys
from quped_jax.data import targets
from quped_jax.data.federation import Batch, ClientData, Federation, Split
from quped_jax.models import Model
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import contexts
from quped_jax.simulation import measures as measures_lib
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.measures import Measure
from quped_jax.simulation.round import Engine

# The lowest coefficient of determination: of whatever is as bad or worse, such
# as predictions that are not finite. Sums of it are still finite.
LOWEST = -1e6

# Samples of all clients together that are evaluated at once.
_EVALUATED_AT_ONCE = 512


def score(
  model: Model,
  params: Any,
  stats: Any,
  data: ClientData,
  split: str,
  batch_size: int = 500,
) -> jax.Array:
  r"""How well a model does on a split's samples; more is better.

  Of classes, the share of samples that it classifies correctly. Of several
  labels at once, the share of all (sample, label) pairs that it gets right, by
  the sign of the logit. Of values y, the coefficient of determination

  .. math:: R^2 = 1 - \frac{\sum_{i,k} (y_{ik} - f_k(x_i))^2}
    {\sum_{i,k} (y_{ik} - \bar y_k)^2}

  about the means of the client's own values in the split.

  Args:
    model: the network.
    params: its parameters.
    stats: its running statistics, which are used as they are.
    data: the client's samples.
    split: "train", "validation" or "test".
    batch_size: samples seen at once; memory, not result, depends on it.

  Returns:
    float32 `[]`: a share in [0, 1], or R^2 from `LOWEST` to 1. NaN for a split
    without samples, and for one whose values are all equal.
  """
  return _evaluated(model, params, stats, data, split, batch_size, {})[0]


def _evaluated(
  model: Model,
  params: Any,
  stats: Any,
  data: ClientData,
  split: str,
  batch_size: int,
  measures: Mapping[str, Measure],
) -> tuple[jax.Array, dict[str, Any]]:
  """The score, and the sums of measures, which see the same outputs."""
  part: Split = getattr(data, split)
  # Of one sample, to know their kind and width.
  first = data.batch(jnp.zeros(1, jnp.int32), split).labels
  kind = targets.kind_of(first)

  def outputs(batch):
    logits, _ = model.apply(params, stats, batch.inputs, False)
    return logits

  def total(fn):
    return _total(fn, data, split, batch_size)

  def also(found, batch, counts):
    return {
      name: measure.sums(found, batch.labels, counts)
      for name, measure in measures.items()
    }

  if kind == "values":
    return _explained(outputs, total, also, first, part.count)
  correct = (
    measures_lib.correct if kind == "classes" else measures_lib.correct_labels
  )

  def hits(batch, counts):
    found = outputs(batch)
    right = correct(found, batch.labels) & counts[:, None]
    return jnp.sum(right), also(found, batch, counts)

  share, sums = total(hits)
  share = share.astype(jnp.float32)
  share /= jnp.maximum(part.count, 1) * first[0].size
  return jnp.where(part.count > 0, share, jnp.nan), sums


def _explained(
  outputs: Callable[[Batch], jax.Array],
  total: Callable[[Callable[..., Any]], Any],
  also: Callable[[jax.Array, Batch, jax.Array], dict[str, Any]],
  first: jax.Array,
  count: Any,
) -> tuple[jax.Array, dict[str, Any]]:
  """The coefficient of determination, and sums of measures.

  Args:
    outputs: `batch -> [batch, width]`, of the model.
    total: sums `fn(batch, counts)` over the split.
    also: `(outputs, batch, counts) -> sums` of measures.
    first: `[1, width]`, the values of the first sample.
    count: the number of samples.
  """

  def deviations(batch, counts):
    # From the first, so that those of equal values are exactly zero.
    return jnp.where(counts[:, None], batch.labels - first, 0.0)

  def sums(batch, counts):
    return jnp.sum(deviations(batch, counts), axis=0, keepdims=True)

  mean = total(sums) / jnp.maximum(count, 1)

  def squares(batch, counts):
    found = outputs(batch)
    errors = found - batch.labels, deviations(batch, counts) - mean
    totals = [jnp.sum(jnp.where(counts[:, None], e**2, 0.0)) for e in errors]
    return totals, also(found, batch, counts)

  (left, variation), measured = total(squares)
  share = 1 - left / jnp.where(variation > 0, variation, 1.0)
  # A comparison with NaN is false.
  share = jnp.where(share > LOWEST, share, LOWEST)
  return jnp.where(variation > 0, share, jnp.nan), measured


def _total(
  fn: Callable[[Batch, jax.Array], Any],
  data: ClientData,
  split: str,
  batch_size: int,
) -> Any:
  """The sum of `fn(batch, which samples count)` over batches of a split."""
  part: Split = getattr(data, split)
  batch_size = min(batch_size, max(part.max_count, 1))
  batches = -(-max(part.max_count, 1) // batch_size)

  def one(start):
    positions = start + jnp.arange(batch_size, dtype=jnp.int32)
    batch = data.batch(jnp.minimum(positions, part.count - 1), split)
    return fn(batch, positions < part.count)

  if batches == 1:
    return one(jnp.int32(0))
  starts = jnp.arange(batches, dtype=jnp.int32) * batch_size
  each = jax.lax.map(one, starts)
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)


def scores(
  variants: Mapping[str, tuple[Any, Any, Model]],
  data: ClientData,
  splits: tuple[str, ...],
  batch_size: int = 500,
) -> dict[str, dict[str, jax.Array]]:
  """Score of every variant of a client's model on every split.

  Args:
    variants: name to (params, stats, model).
    data: the client's samples.
    splits: names of splits.
    batch_size: samples seen at once.

  Returns:
    {split: {variant: score}}.
  """
  found = with_measures(variants, data, splits, {}, batch_size)
  return {
    split: {name: value for name, (value, _) in table.items()}
    for split, table in found.items()
  }


def with_measures(
  variants: Mapping[str, tuple[Any, Any, Model]],
  data: ClientData,
  splits: tuple[str, ...],
  measures: Mapping[str, Measure],
  batch_size: int = 500,
) -> dict[str, dict[str, tuple[jax.Array, dict[str, Any]]]]:
  """Score and measures of every variant of a client's model on every split.

  Args:
    variants: see `scores`.
    data: likewise.
    splits: likewise.
    measures: by name.
    batch_size: see `scores`.

  Returns:
    {split: {variant: (score, {measure: sums})}}.
  """

  def on(split):
    def evaluated(params, stats, model):
      return _evaluated(model, params, stats, data, split, batch_size, measures)

    return _each_once(variants, evaluated)

  return {split: on(split) for split in splits}


def _each_once(variants, evaluated) -> dict[str, Any]:
  """Evaluates variants that are one model under two names only once."""
  results: dict[str, Any] = {}
  for name, variant in variants.items():
    same = [
      results[earlier]
      for earlier in results
      if all(a is b for a, b in zip(variants[earlier], variant, strict=True))
    ]
    results[name] = same[0] if same else evaluated(*variant)
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
    measures: of models, beside the score; None for none.
  """

  splits: tuple[str, ...]
  samples_at_once: int
  measures: measures_lib.OfValues | None = None

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
    context = context._replace(
      own_steps=population.participation.steps_of(client_id)
    )
    data = federation.client(client_id)
    variants = engine.method.variants(
      state.server, client, data, context, cohort
    )
    return variants, data

  def evaluate(self, engine: Engine, state, federation, population):
    """{cohort: {split: {variant: score [slots]}}}."""

    def of_client(variants, data):
      return scores(variants, data, self.splits, self.samples_at_once)

    return self._of_all(engine, state, federation, population, of_client)

  def measure(self, engine: Engine, state, federation, population):
    """{cohort: {split: {variant: (score, {measure: sums}) [slots, ...]}}}."""
    assert self.measures is not None
    measures = self.measures(population.values)

    def of_client(variants, data):
      return with_measures(
        variants, data, self.splits, measures, self.samples_at_once
      )

    return self._of_all(engine, state, federation, population, of_client)

  def _of_all(self, engine: Engine, state, federation, population, of_client):
    """{cohort: what `of_client` gives of a client's variants and data}."""

    def of_cohort(cohort):
      def one(client_id, client):
        variants, data = self._variants(
          engine, state, federation, population, cohort, client_id, client
        )
        return of_client(variants, data)

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


def make_evaluation(
  federation: Federation,
  clients_at_once: int,
  measures: measures_lib.OfValues | None,
) -> Evaluation:
  """The evaluation of a federation's clients.

  Args:
    federation: says which splits there are.
    clients_at_once: how many are evaluated at once.
    measures: see Evaluation.
  """
  return Evaluation(
    splits=(
      ("validation", "test") if federation.validation.max_count else ("test",)
    ),
    # What evaluation holds at once does not grow with the clients.
    samples_at_once=max(_EVALUATED_AT_ONCE // clients_at_once, 16),
    measures=measures,
  )
