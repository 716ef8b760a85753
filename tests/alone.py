"""One client of a method, played by the method's own functions.

Also what several tests of methods compute by hand: losses, gradient steps, and
a short run of a tiny federation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax import methods
from quped_jax.data.federation import Batch, ClientData
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks.training import Training
from tests import tiny

RATES = qj.Rates(*map(jnp.float32, (0.1, 0.02, 0.05)))
SHARED_RATE = 0.3
COUNT = 23


class Alone(NamedTuple):
  """A method and the data of its one client, which has `COUNT` samples."""

  method: api.FederatedMethod
  models: api.Models
  training: Training
  data: ClientData
  context: api.Context
  # Compiled once each: `key -> (server, download, client)`, and a client's
  # round.
  init: Any
  update: Any


class Played(NamedTuple):
  """A client's round: the state before, the result, and its batches."""

  start: Any
  download: Any
  result: api.ClientResult
  batches: list[Batch]


def mlp(*hidden: int) -> qj.Model:
  return qj.create_model("mlp", tiny.CLASSES, features=hidden)


def linear() -> qj.Model:
  """Softmax regression without bias, nothing of it quantized."""

  def init(key, inputs):
    shape = (inputs.shape[1], tiny.CLASSES)
    return {"w": jax.random.normal(key, shape)}, {}

  def apply(params, stats, inputs, train):
    return inputs @ params["w"], stats

  return qj.Model("linear", init, apply, lambda path: False)


def make(
  name: str,
  *,
  bits: int = 32,
  steps: int = 2,
  shared: qj.Model | None = None,
  own: qj.Model | None = None,
  **options,
) -> Alone:
  """A client of that precision; both models are `mlp(8, 8)` by default."""
  settings = tiny.make_settings(
    name, 1, steps=steps, bits=(bits,), method_options={name: options}
  )
  shared = shared or mlp(8, 8)
  models = api.Models(shared, {tiny.COHORT: own or shared})
  training = make_training(settings)
  method = methods.get_method(name).build(
    models, training, settings.options(), None
  )
  context = api.Context(
    round=jnp.int32(0),
    key=jax.random.key(5),
    client_id=jnp.int32(0),
    spec=api.ClientSpec(jnp.int32(bits)),
    rates=RATES,
    shared_learning_rate=jnp.float32(SHARED_RATE),
  )
  data = tiny.make_federation((COUNT,)).client(jnp.int32(0))
  client_id, example = context.client_id, jnp.ones((1, 6))

  @jax.jit
  def init(key):
    server = method.init_server(key, example)
    client = method.init_client(
      key, example, server, client_id, context.spec, tiny.COHORT
    )
    return server, method.broadcast(server, context, tiny.COHORT), client

  @jax.jit
  def update(download, client):
    return method.client_update(download, client, data, context, tiny.COHORT)

  return Alone(method, models, training, data, context, init, update)


def start(made: Alone, seed: int = 1) -> Any:
  """A fresh client, whose weights follow from the seed."""
  return made.init(jax.random.key(seed))[2]


def play(
  made: Alone, client: Any = None, download: Any = None, seed: int = 2
) -> Played:
  """A round of one client.

  Args:
    made: the method and its data.
    client: the client that plays; None for a fresh one.
    download: what it receives; None for that of a fresh server, whose weights
      are not the client's.
    seed: the seed of that server.
  """
  client = start(made) if client is None else client
  if download is None:
    download = made.init(jax.random.key(seed))[1]
  result = made.update(download, client)
  draw_key, _ = jax.random.split(made.context.key)
  positions = made.data.draw(
    draw_key, made.training.steps, made.training.batch_size
  )
  batches = [made.data.batch(p) for p in positions]
  return Played(client, download, result, batches)


def sent(played: Played) -> Any:
  """The parameters of the model that came back."""
  return jax.tree.map(
    jnp.add, played.download.params, played.result.message.params
  )


def labels_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  p = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
  return -jnp.mean(jnp.log(p[jnp.arange(len(labels)), labels]))


def kl(first: jax.Array, second: jax.Array, temperature=1.0) -> jax.Array:
  """T^2 * mean over the batch of KL(softmax(first/T) || softmax(second/T))."""
  p = jnp.exp(first / temperature)
  p /= p.sum(axis=1, keepdims=True)
  q = jnp.exp(second / temperature)
  q /= q.sum(axis=1, keepdims=True)
  return temperature**2 * jnp.mean(jnp.sum(p * jnp.log(p / q), axis=1))


def logits(model: qj.Model, params: Any, batch: Any) -> jax.Array:
  return model.apply(params, {}, batch.inputs, True)[0]


def descend(params: Any, grads: Any, rate: Any) -> Any:
  return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def check_learning(name: str, bits=(1, 2, 32), rounds: int = 12, **options):
  """A few clients learn: the loss falls, models are finite and accurate."""
  settings = tiny.make_settings(
    name, 3, bits=bits, method_options={name: options}
  )
  made = tiny.assemble(settings, tiny.make_federation((40, 64, 30)))
  losses = []
  state = made.simulation.init(0)
  for _ in range(rounds):
    state, metrics = made.simulation.run_round(state)
    losses.append(float(metrics["loss"]))
  table = made.simulation.evaluate(state)["test"]
  floats = [x for x in jax.tree.leaves(state.clients) if x.dtype == jnp.float32]
  # Padded levels are infinite.
  assert not any(np.isnan(x).any() for x in floats)
  assert np.mean(losses[-3:]) < 0.75 * losses[0]
  accuracy = float(np.mean(table[made.method.primary_variant]))
  assert accuracy > 0.5, table
