"""Clients that took no part in training, and what they get from it.

A held-out client starts from the global model, with levels fitted to it, takes
some local steps on its own training data, and is evaluated on its test data.
The same for all methods that have a global model.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from quped_jax import random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import alternating
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import evaluate as evaluate_lib
from quped_jax.simulation import layout as layout_lib
from quped_jax.simulation import placement
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.program import Program
from quped_jax.simulation.programs import Population, SimulationState
from quped_jax.simulation.schedule import Schedule


def make_held_out_evaluation(
  method: api.FederatedMethod,
  training: Training,
  federation: Federation,
  population: Population,
  cohorts: Mapping[str, np.ndarray],
  *,
  steps: int,
  schedule: Schedule | None = None,
  layout: Layout | None = None,
) -> Callable[[SimulationState], dict[str, np.ndarray]]:
  """Makes the evaluation of held-out clients.

  Args:
    method: that trained the global model.
    training: how held-out clients train.
    federation: of all clients, those that trained and the new ones.
    population: what they bring, likewise.
    cohorts: {name: ids of the held-out clients in it}.
    steps: local steps that each takes; 0 evaluates the global model itself.
    schedule: of the rates, by the state's round.
    layout: how clients are run; on the default device if None.

  Returns:
    `state -> {variant: accuracy [held-out clients]}` on test data, in the order
    of the cohorts' ids; variants are "personalized" and "quantized". Empty if
    the method has no global model.
  """
  if method.global_model is None:
    return lambda state: {}
  schedule = schedule or Schedule()
  layout = layout or Layout(None, 1)
  global_model = method.global_model

  def evaluate(server, key, round_, members, federation, population):
    def one(client_id, _, cohort):
      spec, base = population.of_client(client_id)
      rates, shared_rate = schedule.rates(
        base, population.shared_learning_rate, round_
      )
      context = api.Context(
        round=round_,
        key=jax.random.fold_in(key, client_id),
        client_id=client_id,
        spec=spec,
        rates=rates,
        shared_learning_rate=shared_rate,
        public=federation.public,
      )
      data = federation.client(client_id)
      params, stats, model = global_model(server, cohort)
      learner = training.learner(model, params, stats, spec.bits)

      def step(learner, batch):
        objective = training.label_objective(model, batch)
        learner, loss = training.alternating.step(
          learner, objective, context.rates
        )
        return learner, {"loss": loss}

      if steps:
        learner, _ = local_steps.run(
          step, learner, data, context, training, steps=steps
        )
      variants = {
        "personalized": (*alternating.current(learner), model),
        "quantized": training.quantized_variant(model, learner, data, context),
      }
      return evaluate_lib.accuracies(variants, data, ("test",))["test"]

    results = {
      cohort: clients_lib.map_clients(
        lambda client_id, x, cohort=cohort: one(client_id, x, cohort),
        ids,
        (),
        chunk_size=1,
      )
      for cohort, ids in members.items()
    }
    return layout.gather(results) if layout.across else results

  same, divided = P(), P(layout_lib.AXIS)
  federation, specs = placement.place(
    federation, layout, layout.groups(cohorts.values())
  )
  population = layout.place(population, same)
  inputs = (same, same, same, divided, specs, same)
  outputs = same if layout.across else divided
  program = Program(layout.shard(evaluate, inputs, outputs))
  members = {}
  for cohort, ids in cohorts.items():
    spare = layout.slots(len(ids)) - len(ids)
    padded = np.concatenate([ids, np.repeat(ids[-1:], spare)])
    members[cohort] = layout.place(jnp.asarray(padded, jnp.int32), divided)

  def run(state):
    key = jax.random.fold_in(state.key, random_keys.HELD_OUT_CLIENTS)
    tables = jax.device_get(
      program(state.server, key, state.round, members, federation, population)
    )
    return {
      variant: np.concatenate(
        [tables[c][variant][: len(ids)] for c, ids in cohorts.items()]
      )
      for variant in next(iter(tables.values()))
    }

  return run
