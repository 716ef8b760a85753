"""Tiny federations, compiled once, that the tests of the engine share."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax import methods
from quped_jax.data.federation import make_public
from quped_jax.experiment.build_clients import build_clients, build_population
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.simulation.state import Population

BITS = (1, 2, 3, 4, 32)
# With up to four levels, programs are a third as long and compile as much
# faster: few tests take all precisions, the others these.
FEW = (1, 2, 1, 2, 32)
# The first client has less than one batch.
COUNTS = (5, 23, 40, 64, 17)
BATCH = 8
CLASSES = 4
COHORT = "clients"
PUBLIC = 24


class Case(NamedTuple):
  """How the tests over all methods run one of them.

  Attributes:
    options: the method's options that are not defaults.
    bits: precisions of the five clients, in turn.
    model: "mlp", or "normed", the same with batch normalisation.
    loss: upper bound of the metric "loss" after 12 rounds of the tiny
      federation, as a share of its first value.
  """

  options: tuple[tuple[str, Any], ...] = ()
  bits: tuple[int, ...] = FEW
  model: str = "mlp"
  loss: float = 0.75


# Every registered method.
CASES: dict[str, Case] = {
  "apfl": Case(bits=(32,)),
  "cfd": Case(),
  "cronus": Case(),
  "ditto": Case(),
  "ds_fl": Case(),
  "fd": Case(),
  "fedala": Case(options=(("start_steps", 5),)),
  "fedaux": Case(options=(("distill_steps", 5),)),
  "fedavg": Case(),
  "fedavg_ft": Case(),
  "fedbabu": Case(),
  "fedbe": Case(options=(("distill_steps", 5), ("samples", 2))),
  "fedbn": Case(model="normed"),
  "fedcad": Case(),
  "feddbe": Case(options=(("kappa", 1.0),)),
  "feddf": Case(options=(("distill_steps", 5),)),
  "feddyn": Case(),
  "fedftg": Case(
    options=(("iterations", 2), ("distill_steps", 2), ("hidden", (8,)))
  ),
  "fedgen": Case(options=(("generator_steps", 5), ("alpha", 0.1))),
  "fedgkd": Case(),
  "fedgkd_vote": Case(),
  "fedgkt": Case(
    options=(
      ("server_steps", 20),
      ("server_learning_rate", 1e-2),
      ("hidden", (16,)),
    )
  ),
  "fedkd": Case(),
  "fedmd": Case(options=(("pretrain_steps", 10),)),
  "fedmlb": Case(),
  "fedntd": Case(),
  "fedper": Case(),
  "fedproto": Case(),
  "fedprox": Case(),
  "fedprox_ft": Case(),
  "fedrep": Case(),
  "fedrod": Case(),
  "fedssd": Case(),
  "fedtgp": Case(options=(("server_steps", 20), ("weight", 1.0)), loss=0.85),
  "fedzkt": Case(
    options=(
      ("iterations", 2),
      ("distill_steps", 2),
      ("transfer_steps", 3),
      ("hidden", (8,)),
    )
  ),
  "fml": Case(),
  "lg_fedavg": Case(),
  "local": Case(),
  "moon": Case(),
  "per_fedavg": Case(),
  # Its step size times lambda must stay below 2.
  "pfedme": Case(options=(("lambda_p", 4.0),)),
  "quped": Case(),
  "qupel": Case(),
  "scaffold": Case(),
  "scaffold_ft": Case(),
}
METHODS = tuple(sorted(CASES))


class Counter:
  """Counts the calls of a function, which under jit are its traces."""

  def __init__(self, fn):
    self.fn = fn
    self.calls = 0

  def __call__(self, *args):
    self.calls += 1
    return self.fn(*args)


class Tiny(NamedTuple):
  """A simulation with all that it was made of."""

  settings: qj.Settings
  federation: qj.Federation
  model: qj.Model
  method: api.FederatedMethod
  population: Population
  simulation: qj.Simulation
  traces: Counter

  def state(self, seed: int = 0) -> qj.SimulationState:
    """A fresh state, whose buffers a round may take over."""
    settings = self.settings
    bits = settings.bits
    host = _initial(settings.method, bits, self.federation.num_clients, seed)
    return from_host(host)

  def play(
    self, rounds: int = 1, seed: int = 0, state: Any = None
  ) -> qj.SimulationState:
    state = self.state(seed) if state is None else state
    for _ in range(rounds):
      state, _ = self.simulation.run_round(state)
    return state

  def round_with(self, population: Population, seed: int = 0):
    """One round of the same compiled program with other clients."""
    state = self.state(seed)
    return self.simulation.program(
      state, jnp.int32(1), self.federation, population
    )[0]


def to_host(state):
  """A copy on the host, its key as numbers."""
  data = jax.random.key_data(state.key)
  return jax.tree.map(np.array, jax.device_get(state._replace(key=data)))


def from_host(state):
  state = jax.tree.map(jnp.asarray, state)
  return state._replace(key=jax.random.wrap_key_data(state.key))


def in_slots(state, slots: int):
  """A host state with this many slots: fewer, or more, with empty ones."""

  def fit(x):
    x = x[:slots]
    return np.concatenate([x, np.repeat(x[-1:], slots - len(x), axis=0)])

  count = len(state.members[COHORT])
  members = fit(state.members[COHORT])
  members[count:] = -1
  clients, records = jax.tree.map(fit, (state.clients, state.divergence))
  members = {COHORT: members}
  return state._replace(clients=clients, divergence=records, members=members)


def change_codebooks(state, change):
  """Applies a function to every stacked codebook of the clients."""

  def visit(node):
    return change(node) if isinstance(node, qj.Codebook) else node

  clients = jax.tree.map(
    visit, state.clients, is_leaf=lambda x: isinstance(x, qj.Codebook)
  )
  return state._replace(clients=clients)


def full_precision(state):
  """The state, with every client at full precision."""
  return change_codebooks(
    state, lambda books: jax.tree.map(jnp.zeros_like, books)
  )


def client(tree: Any, index: int) -> Any:
  return jax.tree.map(lambda x: x[index], tree)


def assert_same_bits(a: Any, b: Any) -> None:
  """Asserts that two matching trees have arrays of one type and content."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def largest_difference(a: Any, b: Any) -> float:
  """Over all float arrays of two matching trees; NaN if either has a NaN."""

  def distance(x, y):
    x, y = np.asarray(x), np.asarray(y)
    assert x.shape == y.shape, f"{x.shape} and {y.shape}"
    if x.dtype.kind != "f":
      return 0.0
    # Padded levels are infinite.
    with np.errstate(invalid="ignore"):
      gaps = np.where(x == y, 0.0, np.abs(x - y))
    return np.max(gaps, initial=0.0)

  distances = jax.tree.leaves(jax.tree.map(distance, a, b))
  # Unlike Python's, this maximum is NaN if anything is.
  return float(np.max(distances, initial=0.0))


def make_federation(counts=COUNTS, seed: int = 0) -> qj.Federation:
  """Gaussian classes; client i has `counts[i]` training rows, 20 of test.

  With more counts, the first clients keep the same samples. The public set,
  with labels, is of the same classes.
  """
  means = 2 * np.random.default_rng(99).normal(size=(CLASSES, 6))
  inputs, labels, train, test = [], [], [], []
  start = 0
  for index, count in enumerate(counts):
    rng = np.random.default_rng((seed, index))
    own = rng.integers(0, CLASSES, count + 20)
    labels.append(own)
    inputs.append(means[own] + rng.normal(size=(count + 20, 6)))
    train.append(np.arange(start, start + count, dtype=np.int32))
    test.append(np.arange(start + count, start + count + 20, dtype=np.int32))
    start += count + 20
  dataset = qj.from_arrays(
    np.concatenate(inputs), np.concatenate(labels), num_classes=CLASSES
  )
  nothing = tuple(np.zeros(0, np.int32) for _ in counts)
  parts = qj.data.Partition(tuple(train), nothing, tuple(test))
  federation = qj.make_federation(dataset, parts)
  rng = np.random.default_rng((seed, 10**6))
  own = rng.integers(0, CLASSES, PUBLIC)
  public = qj.from_arrays(
    means[own] + rng.normal(size=(PUBLIC, 6)), own, num_classes=CLASSES
  )
  return dataclasses.replace(
    federation, public=make_public(public, np.arange(PUBLIC), labelled=True)
  )


class Normed(nn.Module):
  """A perceptron with batch normalisation."""

  classes: int

  @nn.compact
  def __call__(self, inputs, train: bool):
    inputs = jnp.asarray(inputs)
    x = nn.Dense(8, name="first")(inputs.reshape(len(inputs), -1))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.Dense(8, name="hidden_1")(nn.relu(x))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return nn.Dense(self.classes, name="last")(nn.relu(x))


class Dropping(nn.Module):
  """The perceptron "mlp" with dropout, and perhaps batch normalisation."""

  classes: int
  rate: float = 0.4
  norm: bool = False

  @nn.compact
  def __call__(self, inputs, train: bool):
    x = jnp.asarray(inputs).reshape(len(inputs), -1)
    for name in ("first", "hidden_1"):
      x = nn.Dense(8, name=name)(x)
      if self.norm:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
      x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.classes, name="last")(x)


def _register(name: str, module: type[nn.Module], **fields) -> None:
  qj.register_model(
    name, lambda classes, **_: qj.from_linen(module(classes, **fields), name)
  )


_register("normed", Normed)
_register("with_dropout", Dropping)
_register("with_dropout_normed", Dropping, norm=True)
_register("with_no_dropout", Dropping, rate=0.0)


def make_settings(method: str, num_clients: int, **changes) -> qj.Settings:
  case = CASES[method]
  defaults: dict[str, Any] = {
    "method": method,
    "method_options": {method: dict(case.options)},
    "clients": num_clients,
    "model": case.model,
    "hidden": (8, 8) if case.model == "mlp" else (),
    "steps": 5,
    "batch_size": BATCH,
    "strategy": "chunks",
    "devices": 1,
    "bits": case.bits,
    "strength": 1e-2,
    "learning_rate": (0.1,),
    "centers_learning_rate": (1e-2,),
    "shared_learning_rate": 0.2,
  }
  return qj.Settings(**{**defaults, **changes})


_COMPUTED = ("init", "run_rounds", "run_round", "evaluate")


def _explicit(fn):
  """Calls a function where no array is promoted to a higher rank."""

  @functools.wraps(fn)
  def call(*args):
    with jax.numpy_rank_promotion("raise"):
      return fn(*args)

  return call


def assemble(settings: qj.Settings, federation=None, model=None) -> Tiny:
  """Everything of a simulation; nothing is compiled yet."""
  federation = federation or make_federation(COUNTS[: settings.clients])
  model = model or build_clients(settings, federation).model
  traces = Counter(model.apply)
  model = model._replace(apply=traces)
  with jax.numpy_rank_promotion("raise"):
    simulation, _, _ = qj.build(settings, federation=federation, model=model)
  # The library broadcasts explicitly, for users who forbid JAX the rest.
  simulation = simulation._replace(
    **{name: _explicit(getattr(simulation, name)) for name in _COMPUTED}
  )
  return Tiny(
    settings,
    federation,
    model,
    make_method(settings, model, federation),
    build_population(settings),
    simulation,
    traces,
  )


def make_method(
  settings: qj.Settings, model, federation=None
) -> api.FederatedMethod:
  return methods.get_method(settings.method).build(
    api.Models(shared=model, clients={COHORT: model}),
    make_training(settings),
    settings.options(),
    federation,
  )


@functools.cache
def method_of(name: str) -> api.FederatedMethod:
  """A method by itself, of the tiny federation."""
  settings = make_settings(name, len(COUNTS))
  federation = make_federation()
  return make_method(
    settings, build_clients(settings, federation).model, federation
  )


def about(client_id: int, bits: int = 32) -> api.Context:
  """What a server knows when it deals with a client."""
  return api.Context(
    round=jnp.int32(0),
    key=jax.random.key(0),
    client_id=jnp.int32(client_id),
    spec=api.ClientSpec(jnp.int32(bits)),
    rates=None,
    shared_learning_rate=None,
  )


def silence(made: Tiny, server: Any) -> api.Aggregate:
  """What a server has received when no client sent anything."""
  client = jax.tree.map(lambda x: x[0], made.state().clients[COHORT])

  def hear(server, client, federation, population):
    spec, rates = population.of_client(0)
    context = api.Context(
      round=jnp.int32(0),
      key=jax.random.key(0),
      client_id=jnp.int32(0),
      spec=spec,
      rates=rates,
      shared_learning_rate=population.shared_learning_rate,
      public=federation.public,
    )
    download = made.method.broadcast(server, context, COHORT)
    result = made.method.client_update(
      download, client, federation.client(0), context, COHORT
    )
    heard = made.method.receive(
      server, result.message, result.weight, context, COHORT
    )
    collect = made.method.collect
    return heard, collect(result.message, context) if collect else None

  shapes, part = jax.eval_shape(
    hear, server, client, made.federation, made.population
  )
  slots = len(COUNTS)
  collected = None
  if made.method.collect is not None:
    collected = api.Collected(
      jnp.full(slots, -1, jnp.int32),
      jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), part),
      jnp.zeros(slots),
    )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return zeros._replace(collected=collected)


def tiny(
  method: str,
  *,
  num_clients: int = len(COUNTS),
  bits: tuple[int, ...] | None = None,
  options: tuple[tuple[str, Any], ...] = (),
  **changes,
) -> Tiny:
  """The simulation of a method, compiled once for all tests of a worker."""
  # With a default given or not, it is the same simulation.
  bits = bits or CASES[method].bits
  return _tiny(method, num_clients, bits, options, **changes)


# Few at a time: compiled programs take memory, see tests/conftest.py.
@functools.lru_cache(maxsize=12)
def _tiny(method, num_clients, bits, options, **changes) -> Tiny:
  if options:
    changes["method_options"] = {method: dict(options)}
  return assemble(make_settings(method, num_clients, bits=bits, **changes))


@functools.cache
def _initial(method: str, bits: tuple, num_clients: int, seed: int):
  """Host copy of a fresh state: `init` is compiled once per kind of state."""
  made = tiny(method, num_clients=num_clients, bits=bits)
  return to_host(made.simulation.init(seed))


def midpoint_margin(params: Any, codebooks: Any) -> float:
  """Smallest distance of a quantized weight from the border of two cells."""
  smallest = np.inf
  for name, book in books(codebooks).items():
    centers, levels = np.asarray(book.centers), np.asarray(book.levels)
    kernel = np.asarray(params[name]["kernel"])
    for i in range(len(levels)):
      own = centers[i, : levels[i]]
      borders = (own[1:] + own[:-1]) / 2
      if borders.size:
        gaps = np.abs(kernel[i].ravel()[:, None] - borders)
        smallest = min(smallest, gaps.min())
  return float(smallest)


def books(codebooks: Any) -> dict[str, qj.Codebook]:
  """The codebooks of an MLP's layers, those that have one."""
  return {
    name: layer["kernel"]
    for name, layer in codebooks.items()
    if isinstance(layer["kernel"], qj.Codebook)
  }
