"""Small federations whose rounds can be followed by hand.

Linear regression on two clients that see all their samples in every step, so
that gradients are exact; and rounds of any method, by the engine or by its
functions alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax.data.federation import Federation
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from tests import tiny

COHORT = tiny.COHORT
RATE = 0.1

# X and y of the two clients.
INPUTS = (((1.0, 0.0), (0.0, 1.0)), ((3.0, 1.0), (1.0, 1.0)))
TARGETS = ((2.0, 0.0), (0.0, 3.0))


def squared_loss(outputs, targets):
  return jnp.mean(jnp.square(outputs - targets)) / 2


LINEAR = qj.Model(
  "linear",
  lambda key, inputs: ({"w": jnp.zeros(inputs.shape[1])}, {}),
  lambda params, stats, inputs, train: (inputs @ params["w"], stats),
  lambda path: False,
)


def linear_gradient(client: int, w):
  """The gradient of a client's mean squared error, by hand."""
  X, y = np.array(INPUTS[client]), np.array(TARGETS[client])
  return X.T @ (X @ np.asarray(w) - y) / len(y)


def linear_optimum():
  """The point at which the mean of the clients' losses is smallest."""
  X = np.concatenate([np.array(x) for x in INPUTS])
  return np.linalg.lstsq(X, np.concatenate(TARGETS), rcond=None)[0]


def linear_federation() -> Federation:
  inputs = np.concatenate([np.array(x) for x in INPUTS])
  targets = np.concatenate(TARGETS).astype(int)
  dataset = qj.from_arrays(inputs, targets, num_classes=4)
  rows = (np.arange(2, dtype=np.int32), np.arange(2, 4, dtype=np.int32))
  nothing = (rows[0][:0],) * 2
  return qj.make_federation(
    dataset, qj.data.Partition(rows, nothing, (rows[0], rows[1]))
  )


def linear_method(name: str, steps: int, **options) -> api.FederatedMethod:
  """A method that trains linear models on all samples in every step."""
  settings = tiny.make_settings(
    name, 2, bits=(32,), steps=steps, batch_size=2,
    method_options={name: options},
  )  # fmt: skip
  return qj.methods.get_method(name).build(
    api.Models(shared=LINEAR, clients={COHORT: LINEAR}),
    make_training(settings)._replace(loss=squared_loss),
    settings.options(),
    linear_federation(),
  )


def make_context(client_id: Any = 0, round_: Any = 0, **changes) -> api.Context:
  context = api.Context(
    round=jnp.int32(round_),
    key=jax.random.fold_in(jax.random.key(round_), client_id),
    client_id=jnp.int32(client_id),
    spec=api.ClientSpec(jnp.int32(32)),
    rates=qj.Rates(*map(jnp.float32, (RATE, 0.01, 0.01))),
    shared_learning_rate=jnp.float32(RATE),
  )
  return context._replace(**changes)


def at_server(round_: int = 0) -> api.Context:
  """What the server knows in a round."""
  return api.Context(
    round=jnp.int32(round_),
    key=jax.random.key(round_),
    client_id=jnp.int32(-1),
    spec=None,
    rates=None,
    shared_learning_rate=None,
  )


def begin(made: api.FederatedMethod, federation: Federation):
  """The server and all clients at the start."""
  key, example = jax.random.key(0), federation.example()
  server = made.init_server(key, example)
  spec = api.ClientSpec(jnp.int32(32))
  clients = [
    made.init_client(key, example, server, jnp.int32(i), spec, COHORT)
    for i in range(federation.num_clients)
  ]
  return server, clients


def play(made, federation, rounds: int, start=None, **changes):
  """Rounds by the method's functions alone: the server and the clients.

  Args:
    made: the method.
    federation: its data.
    rounds: how many.
    start: `(server, clients)`.
    changes: to the clients' contexts.
  """

  @jax.jit
  def play_round(server, clients, round_):
    new, sums = [], []
    for i, client in enumerate(clients):
      context = make_context(i, 0, round=round_, **changes)
      result = made.client_update(
        made.broadcast(server, context, COHORT),
        client,
        federation.client(jnp.int32(i)),
        context,
        COHORT,
      )
      new.append(result.client)
      sums.append(
        made.receive(server, result.message, result.weight, None, COHORT)
      )
    total = jax.tree.map(lambda *x: sum(x), *sums)
    return made.server_update(server, {COHORT: total}, at_server()), new

  server, clients = start or begin(made, federation)
  for round_ in range(rounds):
    server, clients = play_round(server, clients, jnp.int32(round_))
  return server, clients


class Played(NamedTuple):
  """Rounds by the engine.

  Attributes:
    made: the simulation.
    states: on the host, from the initial one.
    losses: of the rounds.
    accuracy: {variant: mean over clients} of the last state, on test data.
  """

  made: tiny.Tiny
  states: list[Any]
  losses: list[float]
  accuracy: dict[str, float]


@functools.cache
def run(
  name: str, rounds: int, *, clients: int = 3, model=None, bits=(1, 2, 32),
  evaluate: bool = False, changes=(), **options,
) -> Played:  # fmt: skip
  """Rounds of a method on the tiny federation; played once for all tests.

  Args:
    name: of the method.
    rounds: how many.
    clients: how many of the tiny federation's.
    model: takes the place of the MLP.
    bits: of the clients in turn.
    evaluate: whether the last state is evaluated.
    changes: to the settings, pairs of field and value.
    options: of the method.
  """
  settings = tiny.make_settings(
    name, clients, bits=bits, method_options={name: options}, **dict(changes)
  )
  made = tiny.assemble(settings, model=model)
  state = made.simulation.init(0)
  states, losses, accuracy = [tiny.to_host(state)], [], {}
  for _ in range(rounds):
    state, metrics = made.simulation.run_round(state)
    states.append(tiny.to_host(state))
    losses.append(float(metrics["loss"]))
  if evaluate:
    table = made.simulation.evaluate(state)["test"]
    accuracy = {k: float(np.mean(v)) for k, v in table.items()}
  return Played(made, states, losses, accuracy)


def check_learns(name: str, rounds: int = 15, **how) -> Played:
  """A mixed federation learns: losses fall, the primary variant is good."""
  played = run(name, rounds, clients=5, evaluate=True, **how)
  assert np.all(np.isfinite(played.losses))
  assert np.mean(played.losses[-3:]) < 0.7 * played.losses[0]
  assert played.made.simulation.primary_variant == "quantized"
  assert played.accuracy["quantized"] > 2 / tiny.CLASSES
  return played


class OneClient(NamedTuple):
  """A client's round on a small MLP, and what went into it.

  Attributes:
    made: the method.
    download: what it received.
    result: its ClientResult.
    batches: of its local steps.
    model: the MLP.
  """

  made: api.FederatedMethod
  download: Any
  result: api.ClientResult
  batches: list[Any]
  model: qj.Model


def play_one_client(
  name: str, prepare=None, prepare_client=None, **options
) -> OneClient:
  """The first round of one client, of full precision, with 23 samples.

  Args:
    name: of the method.
    prepare: changes the server's state first.
    prepare_client: changes the client's state first.
    options: of the method.
  """
  settings = tiny.make_settings(
    name, 1, bits=(32,), steps=3, method_options={name: options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  federation = tiny.make_federation((23,))
  made = tiny.make_method(settings, model, federation)
  context, data = make_context(), federation.client(jnp.int32(0))

  @jax.jit
  def play_round():
    server, (client,) = begin(made, federation)
    server = prepare(server) if prepare else server
    client = prepare_client(client) if prepare_client else client
    download = made.broadcast(server, context, COHORT)
    result = made.client_update(download, client, data, context, COHORT)
    return download, result

  draw_key, _ = jax.random.split(context.key)
  batches = [data.batch(p) for p in data.draw(draw_key, 3, tiny.BATCH)]
  download, result = play_round()
  return OneClient(made, download, result, batches, model)


def hand_forward(params, inputs):
  """The MLP of `play_one_client`."""
  x = inputs @ params["first"]["kernel"] + params["first"]["bias"]
  return jnp.maximum(x, 0) @ params["last"]["kernel"] + params["last"]["bias"]


def norm(tree: Any) -> float:
  """The L2 norm of all arrays of a tree together."""
  parts = [
    np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)
  ]
  return float(np.sqrt(sum(parts)))


def hand_softmax(logits):
  exponentials = jnp.exp(logits)
  return exponentials / exponentials.sum(axis=1, keepdims=True)


def hand_labels(logits, labels):
  """Cross entropy."""
  p = hand_softmax(logits)
  return -jnp.mean(jnp.log(p[jnp.arange(len(labels)), labels]))


def hand_kl(p, q):
  """Mean divergence of probabilities `[batch, classes]`."""
  return jnp.mean(jnp.sum(p * jnp.log(p / q), axis=1))


def descend(params, loss, batches):
  """Gradient steps by hand on `loss(params, batch)`."""
  step = jax.jit(
    lambda params, batch: jax.tree.map(
      lambda p, g: p - RATE * g, params, jax.grad(loss)(params, batch)
    )
  )
  for batch in batches:
    params = step(params, batch)
  return params
