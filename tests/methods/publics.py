"""Tiny federations with a public set, and methods made for them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax import methods
from quped_jax.data.federation import make_public
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.simulation.simulation import Simulation
from tests import tiny

# Not a multiple of the batch size.
SIZE = 30
COUNTS = tiny.COUNTS[1:4]
BITS = (1, 2, 32)


def make_federation(
  counts=COUNTS, size: int = SIZE, *, labelled: bool = True
) -> qj.Federation:
  """The federation of `tiny`, with a public set of the same classes."""
  federation = tiny.make_federation(counts)
  # The classes' means are those of any federation of `tiny`.
  other = tiny.make_federation((size,), seed=7).source
  dataset = qj.from_arrays(
    np.asarray(other.inputs), np.asarray(other.labels), num_classes=tiny.CLASSES
  )
  public = make_public(dataset, np.arange(size), labelled=labelled)
  return dataclasses.replace(federation, public=public)


def make_method(
  name: str, federation: Any, *, bits=(32,), model=None, shared=None, **options
) -> api.FederatedMethod:
  """The pure functions of a method."""
  settings = tiny.make_settings(
    name, len(COUNTS), bits=bits, method_options={name: options}
  )
  model = model or make_model()
  return methods.get_method(name).build(
    api.Models(shared or model, {tiny.COHORT: model}),
    make_training(settings),
    settings.options(),
    federation,
  )


def make_model(hidden=(8, 8)) -> qj.Model:
  return qj.create_model("mlp", tiny.CLASSES, features=hidden)


def make_context(federation: Any, client_id: int = 0, round_: int = 0):
  """The context of a client of full precision."""
  return api.Context(
    round=jnp.int32(round_),
    key=jax.random.key(3),
    client_id=jnp.int32(client_id),
    spec=api.ClientSpec(jnp.int32(32)),
    rates=qj.Rates(jnp.float32(0.1), jnp.float32(0.01), jnp.float32(0.0)),
    shared_learning_rate=jnp.float32(0.2),
    public=federation.public,
  )


def simulate(
  name: str, federation: Any = None, *, bits=(32,), settings=None, **options
) -> Simulation:
  """The simulation of a method on a tiny federation with a public set."""
  federation = federation or make_federation()
  made = tiny.make_settings(
    name,
    federation.num_clients,
    bits=bits,
    method_options={name: options},
    **(settings or {}),
  )
  return qj.build(made, federation=federation)[0]


def random_like(tree: Any, seed: int, scale: float = 0.5) -> Any:
  """Gaussian noise in the shape of a tree."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return structure.unflatten(
    [
      scale * jax.random.normal(k, x.shape)
      for k, x in zip(keys, leaves, strict=True)
    ]
  )


def heard(made, server, messages, weights, context) -> api.Aggregate:
  """What a server receives, as the engine adds up some messages."""
  sums = [
    made.receive(server, m, w, context, tiny.COHORT)
    for m, w in zip(messages, weights, strict=True)
  ]
  total = jax.tree.map(lambda *x: sum(x), *sums)
  if made.collect is None:
    return total
  parts = [made.collect(m, context) for m in messages]
  return total._replace(
    collected=api.Collected(
      jnp.arange(len(messages)),
      jax.tree.map(lambda *x: jnp.stack(x), *parts),
      jnp.asarray(weights, jnp.float32),
    )
  )


def logits_of(federation, model, shared: api.GlobalModel) -> jax.Array:
  """What a model says about the public samples."""
  data = federation.public.data()
  inputs = data.batch(jnp.arange(federation.public.size)).inputs
  return model.apply(shared.params, shared.stats, inputs, False)[0]


def play(simulation: Simulation, rounds: int, seed: int = 0):
  """(The state after some rounds, the loss of each round)."""
  losses = []
  state = simulation.init(seed)
  for _ in range(rounds):
    state, metrics = simulation.run_round(state)
    losses.append(float(metrics["loss"]))
  return state, losses


def check_learns(name: str, rounds: int = 8, **options) -> None:
  """Clients of several precisions learn: finite, above chance, loss falls."""
  simulation = simulate(name, bits=BITS, **options)
  state, losses = play(simulation, rounds)
  assert np.all(np.isfinite(losses))
  assert np.mean(losses[-2:]) < 0.75 * losses[0]
  accuracies = simulation.evaluate(state)["test"][simulation.primary_variant]
  # One of four classes is chance.
  assert np.mean(accuracies) > 0.5
