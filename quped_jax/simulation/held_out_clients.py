"""Clients that took no part in training, and how well its model serves them.

A held-out client starts from the global model, or from what the method has for
new clients, with levels fitted to it, takes some local steps on its own
training data, and is evaluated on its test data. This is the same for all
methods that have such a model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import random_keys
from quped_jax.data import padding
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import adapt
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import alternating
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import contexts, placement
from quped_jax.simulation import evaluate as evaluate_lib
from quped_jax.simulation.layout import DIVIDED, SAME, Layout
from quped_jax.simulation.program import Program
from quped_jax.simulation.schedule import Schedule
from quped_jax.simulation.state import Population, SimulationState

# `values -> (method, training, schedule)`, with numbers that may be traced.
OfValues = Callable[[Any], tuple[api.FederatedMethod, Training, Schedule]]


@dataclasses.dataclass(frozen=True)
class _Adaptation:
  """What a held-out client does with the global model; see below."""

  method: api.FederatedMethod
  training: Training
  schedule: Schedule
  steps: int

  def start(self, server, spec, cohort):
    """The model from which the client starts, and its network."""
    if self.method.start is not None:
      return self.method.start(server, spec, cohort)
    assert self.method.global_model is not None
    params, stats, model = self.method.global_model(server, cohort)
    return api.GlobalModel(params, stats), model

  def variants(self, server, data, context, cohort):
    """The client's models after its local steps, by name."""
    training = self.training
    shared, model = self.start(server, context.spec, cohort)
    learner = training.learner(
      model, shared.params, shared.stats, context.spec.bits
    )
    known = shared.quantized_stats
    if known is not None:
      learner = learner._replace(quantized_stats=known.value)
    learner = adapt.adapted(
      training, model, learner, data, context, steps=self.steps
    )
    if self.steps or known is None:
      quantized = training.quantized_variant(model, learner, data, context)
    else:
      # The shared model itself, with the server's statistics.
      quantized = (*alternating.deployed(learner), model)
    trained = training.alternating.current(learner, context.rates)
    return {
      "personalized": (*trained, model),
      "quantized": quantized,
    }


@dataclasses.dataclass(frozen=True)
class HeldOutEvaluation:
  """`state -> {variant: score [held-out clients]}`.

  Attributes:
    evaluate: `(data, state) -> scores`; the data are the federation and the
      population, on the devices.
    places: where these are; None if there is nothing to evaluate.
    lengths: of tables of row numbers.
    data: those of the run that is evaluated.
  """

  evaluate: Callable[[Any, SimulationState], dict[str, np.ndarray]]
  places: placement.Places | None = None
  lengths: padding.Lengths | None = None
  data: Any = None

  def __call__(self, state: SimulationState) -> dict[str, np.ndarray]:
    """Scores of the held-out clients, which start from this state."""
    return self.evaluate(self.data, state)

  def over(
    self, federation: Federation, population: Population
  ) -> "HeldOutEvaluation":
    """The same compiled program for another run, see `Simulation.over`."""
    if self.places is None or self.lengths is None:
      return self
    federation = padding.padded(federation, self.lengths)
    data, _ = self.places.place(federation, population)
    return dataclasses.replace(self, data=data)


# Of a run without held-out clients, or with nothing for them to start from.
NOBODY = HeldOutEvaluation(lambda data, state: {})


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
  deterministic: bool = False,
  of_values: OfValues | None = None,
  others: Sequence[Federation] = (),
) -> HeldOutEvaluation:
  """Makes the evaluation of held-out clients.

  Args:
    method: that trained the global model.
    training: how held-out clients train.
    federation: the samples of all clients, held out or not.
    population: what the clients bring, likewise.
    cohorts: {name: ids of the held-out clients in it}.
    steps: local steps of each client; 0 evaluates the model that it starts
      from.
    schedule: of the rates, by the state's round.
    layout: over which devices clients are divided; the default device if
      None.
    deterministic: whether it must give the same bits in every run.
    of_values: `values -> (method, training, schedule)`, what these are with the
      population's `values`, which programs take as data; None if they do not
      depend on them.
    others: federations of further runs, see `make_simulation`.

  Returns:
    `state -> {variant: score [held-out clients]}` on test data, in the order
    of the cohorts' ids; variants are "personalized" and "quantized". Empty if
    the method has nothing to start from.
  """
  if method.global_model is None and method.start is None:
    return NOBODY
  layout = layout or Layout(None, 1)
  constant = method, training, schedule or Schedule()

  def evaluate(server, key, round_, members, federation, population):
    given = of_values(population.values) if of_values else constant
    adaptation = _Adaptation(*given, steps)

    def one(client_id, cohort):
      context = contexts.of_client(
        adaptation.schedule, round_, key, federation, population, client_id
      )
      data = federation.client(client_id)
      variants = adaptation.variants(server, data, context, cohort)
      return evaluate_lib.scores(variants, data, ("test",))["test"]

    results = {
      cohort: clients_lib.map_clients(
        lambda client_id, _, cohort=cohort: one(client_id, cohort),
        ids,
        (),
        chunk_size=1,
      )
      for cohort, ids in members.items()
    }
    return evaluate_lib.to_every_process(results, layout)

  lengths = padding.lengths_of([federation, *others])
  federation, *others = [
    padding.padded(x, lengths) for x in (federation, *others)
  ]
  places = placement.Places(
    [federation, *others], layout, layout.groups(cohorts.values())
  )
  data, specs = places.place(federation, population)
  inputs = (SAME, SAME, SAME, DIVIDED, *specs)
  outputs = SAME if layout.across else DIVIDED
  program = Program(
    layout.shard(evaluate, inputs, outputs), deterministic=deterministic
  )
  members = _members(cohorts, layout)

  def run(data, state):
    key = jax.random.fold_in(state.key, random_keys.HELD_OUT_CLIENTS)
    tables = jax.device_get(
      program(state.server, key, state.round, members, *data)
    )
    return {
      variant: np.concatenate(
        [tables[c][variant][: len(ids)] for c, ids in cohorts.items()]
      )
      for variant in next(iter(tables.values()))
    }

  return HeldOutEvaluation(run, places, lengths, data)


def _members(
  cohorts: Mapping[str, np.ndarray], layout: Layout
) -> dict[str, jax.Array]:
  """The clients in slots of their cohort; the last fills those left over."""
  members = {}
  for cohort, ids in cohorts.items():
    spare = layout.slots(len(ids)) - len(ids)
    padded = np.concatenate([ids, np.repeat(ids[-1:], spare)])
    members[cohort] = layout.place(jnp.asarray(padded, jnp.int32), DIVIDED)
  return members
