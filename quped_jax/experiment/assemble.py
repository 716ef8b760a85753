"""From settings to a simulation: data, networks, method and programs."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks, methods
from quped_jax import data as data_lib
from quped_jax import models as models_lib
from quped_jax.data.augment import check_augment
from quped_jax.data.federation import (
  Federation,
  check_batches,
  make_federation,
  make_public,
  synthetic_federation,
)
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.training import make_schedule, make_training
from quped_jax.files.packed import ModelInfo
from quped_jax.files.weights import load_weights
from quped_jax.methods import api
from quped_jax.methods.wrappers import privacy as privacy_lib
from quped_jax.methods.wrappers import robust as robust_lib
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.alternating import Rates
from quped_jax.simulation import memory as memory_lib
from quped_jax.simulation.held_out_clients import make_held_out_evaluation
from quped_jax.simulation.participation import Participation, load_trace
from quped_jax.simulation.programs import (
  Population,
  Simulation,
  SimulationState,
  make_simulation,
)
from quped_jax.simulation.store import Store

_COHORT = "clients"


def load_federation(
  settings: Settings, dataset: data_lib.Dataset | None = None
) -> Federation:
  """Loads the data that the settings name and divides it over the clients.

  Args:
    settings: dataset, partition and number of clients.
    dataset: used instead of the one that the settings name, if given.

  Raises:
    ValueError: data or a partition that cannot be; the message names the
      field.
  """
  if dataset is None and settings.dataset == "synthetic":
    source = data_lib.SyntheticSource(
      settings.seed,
      shape=settings.synthetic_shape,
      classes_per_client=settings.classes_per_client,
    )
    check_augment(settings.augment, source.shape)
    if settings.public_size:
      raise ValueError(
        f"public_size={settings.public_size}: must be 0 with "
        "dataset='synthetic', whose samples belong to clients"
      )
    return synthetic_federation(
      source,
      settings.clients + settings.held_out_clients,
      validation_fraction=settings.validation_fraction,
    )
  if dataset is None:
    checks.choice(
      "dataset", settings.dataset, (*data_lib.dataset_names(), "synthetic")
    )
    dataset = data_lib.load_dataset(
      settings.dataset,
      settings.data_dir or None,
      # Each needs the samples of its clients only.
      mapped=jax.process_count() > 1,
    )
  public, held_out = _load_public(settings, dataset)
  parts = data_lib.partition(
    dataset,
    settings.partition,
    settings.clients + settings.held_out_clients,
    seed=settings.seed,
    classes_per_client=settings.classes_per_client,
    alpha=settings.alpha,
    min_size=settings.min_size,
    shards_per_client=settings.shards_per_client,
    groups_per_client=settings.groups_per_client,
    train_fraction=settings.train_fraction,
    validation_fraction=settings.validation_fraction,
    exclude=held_out,
  )
  federation = make_federation(dataset, parts, augment=settings.augment)
  return dataclasses.replace(federation, public=public)


def _load_public(settings: Settings, dataset: data_lib.Dataset):
  """The public set, and the rows of the dataset that are held out for it."""
  if not settings.public_size:
    return None, None
  source = dataset
  if settings.public_dataset:
    checks.choice(
      "public_dataset",
      settings.public_dataset,
      tuple(data_lib.dataset_names()),
    )
    source = data_lib.load_dataset(
      settings.public_dataset, settings.data_dir or None
    )
    shapes = source.inputs.shape[1:], dataset.inputs.shape[1:]
    if shapes[0] != shapes[1]:
      raise ValueError(
        f"public_dataset={source.name!r}: must have samples of shape "
        f"{shapes[1]}, as {dataset.name!r} has; got {shapes[0]}"
      )
    if settings.public_labelled and source.num_classes > dataset.num_classes:
      raise ValueError(
        f"public_labelled=True: must be False with public_dataset="
        f"{source.name!r} of {source.num_classes} classes, more than the "
        f"{dataset.num_classes} of {dataset.name!r}"
      )
  rows = data_lib.draw_public(source, settings.public_size, seed=settings.seed)
  public = make_public(source, rows, labelled=settings.public_labelled)
  own = settings.public_dataset in ("", settings.dataset)
  return public, rows if own else None


def load_models(
  settings: Settings, federation: Federation
) -> tuple[api.Models, client_types_lib.Assignment]:
  """The networks, and which client has which at which precision.

  Of all clients, those that take no part in training last. The cohorts are
  called by their networks, or "clients" if there is but one.

  Raises:
    ValueError: an unknown network, or a budget too small for any.
  """
  networks, shared = settings.networks(), settings.shared_network()
  made = {
    network: _create(settings, federation, network)
    for network in dict.fromkeys((*networks, shared))
  }
  if settings.warm_start:
    warm = client_types_lib.make_network(settings.model, settings.hidden)
    if warm not in made:
      raise ValueError(
        f"warm_start={settings.warm_start!r}: must be '' where no client and "
        f"no server has model={str(warm)!r}, whose weights they are"
      )
    model = made[warm]
    like = jax.eval_shape(model.init, jax.random.key(0), federation.example())
    weights = load_weights(settings.warm_start, *like)
    made[warm] = model._replace(init=lambda key, inputs: weights)
  assignment = _assign(settings, federation, made)
  names = _cohort_names(assignment)
  clients = {name: made[network] for network, name in names.items()}
  if len(clients) > 1:
    for network, members in assignment.cohorts().items():
      if np.all(assignment.bits[members] == codebook_lib.FULL_PRECISION):
        # Statically: it costs no passes that other cohorts need.
        name = names[network]
        clients[name] = clients[name]._replace(is_quantized=lambda path: False)
  return api.Models(shared=made[shared], clients=clients), assignment


def load_model(settings: Settings, federation: Federation) -> models_lib.Model:
  """The network of clients that all have the same."""
  models, _ = load_models(settings, federation)
  return next(iter(models.clients.values()))


def _cohort_names(
  assignment: client_types_lib.Assignment,
) -> dict[client_types_lib.Network, str]:
  networks = list(assignment.cohorts())
  if len(networks) == 1:
    return {networks[0]: _COHORT}
  return {network: str(network) for network in networks}


def describe(
  settings: Settings, federation: Federation, network: client_types_lib.Network
) -> ModelInfo:
  """A network as a file would describe it, of nobody yet and not quantized."""
  return ModelInfo(
    model=network.model,
    num_classes=federation.num_classes,
    input_shape=jax.eval_shape(federation.example).shape[1:],
    options={"features": network.hidden} if network.hidden else {},
    conv=settings.conv,
    compute_dtype=settings.compute_dtype,
    granularity=settings.granularity,
    dataset=federation.name,
    method=settings.method,
  )


def _create(settings, federation, network) -> models_lib.Model:
  model = describe(settings, federation, network).create()
  variables = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )
  most = max((x.size for x in jax.tree.leaves(variables)), default=0)
  if most >= 2**31:
    raise ValueError(
      f"model={str(network)!r}: must have less than 2**31 weights in each "
      f"layer; got {most:,}"
    )
  return model


def _assign(
  settings: Settings,
  federation: Federation,
  made: Mapping[client_types_lib.Network, models_lib.Model],
) -> client_types_lib.Assignment:
  everyone = settings.clients + settings.held_out_clients
  if settings.client_types:
    client_types, counts = client_types_lib.parse_client_types(
      settings.client_types
    )
    return client_types_lib.assign_counts(
      client_types, counts, settings.held_out_clients
    )
  client_types = [
    client_types_lib.ClientType(network, bits, turn)
    for network in settings.networks()
    for turn, bits in enumerate(settings.bits)
  ]
  if not settings.budget_bytes:
    return client_types_lib.assign_in_turn(client_types, everyone)

  def size(client_type):
    model = made[client_type.network]
    params, stats = jax.eval_shape(
      model.init, jax.random.key(0), federation.example()
    )
    return client_types_lib.model_bytes(
      params,
      stats,
      model.is_quantized,
      client_type.bits,
      channelwise=settings.granularity == "channel",
    )

  budgets = client_types_lib.draw_budgets(
    settings.budget_bytes, everyone, settings.seed
  )
  sizes = {client_type: size(client_type) for client_type in client_types}
  # Whichever are drawn.
  client_types_lib.assign_by_budget(np.asarray(settings.budget_bytes), sizes)
  trained = client_types_lib.assign_by_budget(
    budgets[: settings.clients], sizes
  )
  if not settings.held_out_clients:
    return trained
  # The others have networks that somebody trains.
  known = trained.cohorts()
  new = client_types_lib.assign_by_budget(
    budgets[settings.clients :],
    {
      client_type: size
      for client_type, size in sizes.items()
      if client_type.network in known
    },
  )
  index = [
    trained.client_types.index(client_type) for client_type in new.client_types
  ]
  of_new = np.array(index, np.int32)[new.of_client]
  return client_types_lib.Assignment(
    trained.client_types, np.append(trained.of_client, of_new), budgets
  )


def population_of(
  settings: Settings, assignment: client_types_lib.Assignment | None = None
) -> Population:
  """What each client brings: precision, step sizes, and when it is there.

  Args:
    settings: all settings, with `steps` as they are.
    assignment: which client_type each client is of; `bits` in turn if None.

  Raises:
    ValueError: a trace that cannot be.
  """
  if assignment is None:
    network = client_types_lib.make_network(settings.model, settings.hidden)
    assignment = client_types_lib.assign_in_turn(
      [
        client_types_lib.ClientType(network, b, i)
        for i, b in enumerate(settings.bits)
      ],
      settings.clients + settings.held_out_clients,
    )

  def floats(values):
    return jnp.asarray(assignment.per_client(values), jnp.float32)

  def chance(value):
    return jnp.float32(value) if value else None

  probability, trace = None, None
  if settings.participation:
    turn = np.arange(settings.clients) % len(settings.participation)
    chances = np.asarray(settings.participation, np.float32)
    probability = jnp.asarray(chances[turn])
  if settings.participation_trace:
    trace = load_trace(
      settings.participation_trace, settings.clients, settings.rounds
    )
  return Population(
    spec=api.ClientSpec(bits=jnp.asarray(assignment.bits)),
    rates=Rates(
      learning_rate=floats(settings.learning_rate),
      centers_learning_rate=floats(settings.centers_learning_rate),
      strength=floats((settings.strength,)),
    ),
    shared_learning_rate=jnp.float32(settings.shared_learning_rate),
    participation=Participation(
      probability=probability,
      trace=trace,
      dropout=chance(settings.dropout),
      stragglers=chance(settings.stragglers),
      count=settings.clients_per_round or None,
      steps=settings.steps,
    ),
  )


class Assembly(NamedTuple):
  """All that a run is made of.

  Attributes:
    settings: with `steps` as they are for this data and method.
    federation: of all clients, new ones last.
    models: the networks, by cohort.
    assignment: which client_type each client is of, new ones last.
    population: what they bring, likewise.
    simulation: the programs, of the clients that train.
    held_out: `state -> {variant: accuracy [held-out clients]}`.
    method: that is simulated.
    privacy: what is promised of the shared model; None for nothing.
  """

  settings: Settings
  federation: Federation
  models: api.Models
  assignment: client_types_lib.Assignment
  population: Population
  simulation: Simulation
  held_out: Callable[[SimulationState], dict[str, np.ndarray]]
  method: api.FederatedMethod
  privacy: dict[str, Any] | None

  @property
  def model(self) -> models_lib.Model:
    """The clients' network; if they have several, one of them."""
    return next(iter(self.models.clients.values()))

  def primary_variant(self, cohort: str, client_id: int):
    """Shapes of the model that comparisons report: (params, stats, model)."""
    method, found = self.method, []

    def variant(key, federation, population):
      inputs = federation.example()
      spec, rates = population.of_client(client_id)
      server = method.init_server(key, inputs)
      client = method.init_client(key, inputs, server, client_id, spec, cohort)
      context = api.Context(
        round=jnp.int32(0),
        key=key,
        client_id=jnp.int32(client_id),
        spec=spec,
        rates=rates,
        shared_learning_rate=population.shared_learning_rate,
        public=federation.public,
      )
      variants = method.variants(
        server, client, federation.client(client_id), context, cohort
      )
      params, stats, model = variants[method.primary_variant]
      found.append(model)
      return params, stats

    shapes = jax.eval_shape(
      variant, jax.random.key(0), self.federation, self.population
    )
    return (*shapes, found[-1])

  def cohorts(self) -> dict[str, tuple[client_types_lib.Network, np.ndarray]]:
    """The clients that train, by cohort: their network, and who they are."""
    names = _cohort_names(self.assignment)
    members = self.assignment.first(self.settings.clients).cohorts()
    return {names[n]: (n, ids) for n, ids in members.items()}

  def stored_bits(self) -> np.ndarray:
    """Precision of the model that each client uses, int32 `[clients]`.

    It is that of the primary variant, whose accuracy is reported; all but
    "quantized" is of full precision.
    """
    bits = self.assignment.bits[: self.settings.clients]
    if self.method.primary_variant == "quantized":
      return bits
    return np.full_like(bits, codebook_lib.FULL_PRECISION)

  def model_bytes(self) -> np.ndarray:
    """Size of the model that each client uses, packed, int64 `[clients]`."""
    stored = self.stored_bits()
    sizes = np.zeros(len(stored), np.int64)
    for cohort, (_, members) in self.cohorts().items():
      params, stats, model = self.primary_variant(cohort, int(members[0]))
      for bits in np.unique(stored[members]):
        sizes[members[stored[members] == bits]] = client_types_lib.model_bytes(
          params,
          stats,
          model.is_quantized,
          int(bits),
          channelwise=self.settings.granularity == "channel",
        )
    return sizes


def build(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
) -> tuple[Simulation, Federation, models_lib.Model]:
  """Makes the simulation that the settings describe.

  Args:
    settings: all settings.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.

  Returns:
    The simulation, its data and its model. Nothing is compiled yet.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  made = assemble(settings, federation=federation, model=model)
  return made.simulation, made.federation, made.model


def assemble(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  workdir: str | os.PathLike | None = None,
) -> Assembly:
  """Makes all that a run of the settings is made of; see `build`."""
  # Before the data, which may have to be fetched first.
  _check_names(settings, model)
  privacy = privacy_lib.guarantee(
    dp_clip=settings.dp_clip,
    dp_noise=settings.dp_noise,
    dp_delta=settings.dp_delta,
    clients=settings.clients,
    participation=settings.participation,
    rounds=settings.rounds,
  )
  federation = federation or load_federation(settings)
  everyone = settings.clients + settings.held_out_clients
  if federation.num_clients != everyone:
    raise ValueError(
      f"clients={settings.clients}: must be "
      f"{federation.num_clients - settings.held_out_clients}, so that with "
      f"held_out_clients={settings.held_out_clients} they are as many as the "
      "given federation's"
    )
  models, assignment = _models(settings, federation, model)
  if assignment.quantized:
    _check_quantizable(federation, models, assignment)
  trained = federation.first(settings.clients)
  if settings.epochs:
    average = np.mean(np.asarray(trained.train.count))
    steps = settings.epochs * max(int(average) // settings.batch_size, 1)
    settings = _with_steps(settings, steps, f"epochs={settings.epochs}")
  # Budgets may have bought full precision only.
  bits = assignment.bits.tolist() if settings.budget_bytes else None
  method, settings = _make_method(settings, trained, models, bits)
  population = population_of(settings, assignment)
  simulation = _simulation(
    settings, trained, models, assignment, population, method, workdir
  )
  _check_memory(settings, simulation)
  held_out = _held_out_evaluation(
    settings,
    federation,
    assignment,
    population,
    method,
    simulation,
    make_training(settings, bits),
  )
  return Assembly(
    settings,
    federation,
    models,
    assignment,
    population,
    simulation,
    held_out,
    method,
    privacy,
  )


def _with_steps(settings: Settings, steps: int, why: str) -> Settings:
  """The settings with so many local steps, which follow from something."""
  check_batches(why, steps, settings.batch_size)
  if steps < 2 and settings.stragglers:
    raise ValueError(
      f"stragglers={settings.stragglers}: must be 0 where {why} leaves 1 local "
      "step, of which nobody can take fewer"
    )
  return dataclasses.replace(settings, steps=steps, epochs=0)


def _check_names(settings: Settings, model) -> None:
  """Names of networks, which may be registered after settings were made."""
  known = models_lib.model_names()
  field = "client_types" if settings.client_types else "candidates"
  if settings.client_types or settings.candidates:
    for network in settings.networks():
      checks.choice(field, network.model, known)
      if network.hidden and network.model != "mlp":
        raise ValueError(
          f"{field}={str(network)!r}: must have no widths; only 'mlp' takes "
          "them"
        )
  if model is None:
    checks.choice("model", settings.model, known)
  elif settings.client_types or settings.budget_bytes:
    raise ValueError(
      f"{'client_types' if settings.client_types else 'budget_bytes'}: must "
      "not be set with a given model, which is that of all clients; register "
      "it with register_model"
    )
  if settings.shared_model:
    checks.choice("shared_model", settings.shared_model, known)


def _models(settings, federation, model):
  """The given model, or those that the settings name."""
  if model is None:
    return load_models(settings, federation)
  if settings.compute_dtype != "float32":
    raise ValueError(
      f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with a "
      "given model, which computes in the type that it was made for"
    )
  shared, own = model, client_types_lib.Network(settings.model, settings.hidden)
  if settings.shared_model and settings.shared_network() != own:
    shared = _create(settings, federation, settings.shared_network())
  assignment = _assign(settings, federation, {own: model})
  return api.Models(shared=shared, clients={_COHORT: model}), assignment


def _make_method(
  settings, federation, models, bits
) -> tuple[api.FederatedMethod, Settings]:
  """The method, and the settings with the local steps of its budget."""
  entry = methods.get_method(settings.method)
  steps = given = settings.steps
  while True:
    settings = _with_steps(settings, steps, f"budget={settings.budget!r}")
    training = make_training(settings, bits)
    method = entry.make(models, federation, training, settings.options())
    if settings.budget == "steps" or steps == 1:
      break
    if method.gradients is None:
      raise ValueError(
        f"budget={settings.budget!r}: must be 'steps' with "
        f"method={settings.method!r}, which does not say how many it takes"
      )
    allowed = given * training.gradients_per_step
    if method.gradients <= allowed:
      break
    # What a round takes beside its steps makes this too many, never too few.
    steps = min(steps - 1, math.ceil(steps * allowed / method.gradients))
  if settings.finetune_at and method.begin_finetune is None:
    raise ValueError(
      f"finetune_at={settings.finetune_at}: must be 0 with "
      f"method={settings.method!r}, which has no fine-tuning phase"
    )
  return _with_server_step(settings, method), settings


def _with_server_step(
  settings: Settings, method: api.FederatedMethod
) -> api.FederatedMethod:
  """The method with its Byzantine clients, average and privacy.

  With none of them it is the method itself.
  """

  def check(field, allowed):
    value = getattr(settings, field)
    robust_lib.check_averages(
      method, settings.method, f"{field}={value!r}", allowed
    )

  if settings.byzantine_clients:
    check("byzantine_clients", "0")
  if settings.aggregation != "mean":
    check("aggregation", "'mean'")
  if settings.dp_clip:
    check("dp_clip", "0")
  if settings.byzantine_clients:
    method = robust_lib.with_byzantine_clients(
      method,
      settings.clients - settings.byzantine_clients,
      settings.attack,
      settings.attack_scale,
    )
  if settings.dp_clip:
    own = privacy_lib.chances(settings.participation, settings.clients)
    return privacy_lib.with_privacy(
      method,
      bound=settings.dp_clip,
      noise=settings.dp_noise,
      expected=sum(own),
    )
  return robust_lib.with_aggregation(
    method,
    settings.aggregation,
    trim=settings.trim,
    clip_norm=settings.clip_norm,
  )


def _check_quantizable(federation, models, assignment) -> None:
  """Quantized clients have something to quantize."""
  names = _cohort_names(assignment)
  for network, members in assignment.cohorts().items():
    bits = assignment.bits[members]
    if np.all(bits == codebook_lib.FULL_PRECISION):
      continue
    model = models.clients[names[network]]
    params, _ = jax.eval_shape(
      model.init, jax.random.key(0), federation.example()
    )
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    paths = [codebook_lib.path_name(path) for path, _ in leaves]
    if not any(model.is_quantized(path) for path in paths):
      raise ValueError(
        f"bits={tuple(np.unique(bits).tolist())}: must be "
        f"{codebook_lib.FULL_PRECISION} for a model with nothing to quantize; "
        f"of {model.name!r} that is {', '.join(paths)} (kernels of hidden "
        "layers are quantized: give 'mlp' two hidden widths at least, or the "
        "model a predicate)"
      )


def _simulation(
  settings, federation, models, assignment, population, method, workdir
) -> Simulation:
  assignment = assignment.first(settings.clients)
  names = _cohort_names(assignment)  # Held-out clients have no others.
  return make_simulation(
    method,
    federation,
    population.first(settings.clients),
    {names[network]: ids for network, ids in assignment.cohorts().items()},
    schedule=make_schedule(settings),
    strategy=settings.strategy,
    chunk_size=settings.chunk_size,
    devices=settings.devices,
    step_bytes={
      name: functools.partial(
        memory_lib.step_bytes,
        models.clients[name],
        batch_shape(settings, federation),
        quantized=settings.quantized,
      )
      for name in names.values()
    },
    store=Store(
      settings.client_state,
      None if workdir is None else pathlib.Path(workdir) / "clients",
      settings.clients_per_block,
    ),
    # Whose messages count must not follow from those of others where one of
    # them is to be hidden.
    max_message_norm=settings.max_message_norm
    or (checks.LARGEST if settings.dp_clip else 0.0),
  )


def _check_memory(settings: Settings, simulation: Simulation) -> None:
  """Refuses what would take more than twice the memory that there is.

  Twice, as the estimate is one: less is left to the system to refuse.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  needed = simulation.memory
  room = stats.get("bytes_limit")
  if room is None:
    # Devices that do not say are the host's cores, which share its memory.
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed *= simulation.layout.devices // jax.process_count()
  if needed > 2 * room:
    raise ValueError(
      f"clients={settings.clients}: must fit into memory, of which there are "
      f"{room / 1e9:.1f} GB; a round takes an estimated {needed / 1e9:.3g} GB. "
      "Smaller networks, a smaller batch_size or chunk_size, or "
      "client_state='disk' take less"
    )


def _held_out_evaluation(
  settings,
  federation,
  assignment,
  population,
  method,
  simulation,
  training,
):
  if not settings.held_out_clients:
    return lambda state: {}
  names = _cohort_names(assignment)
  new = {
    names[network]: ids[ids >= settings.clients]
    for network, ids in assignment.cohorts().items()
  }
  return make_held_out_evaluation(
    method,
    training,
    federation,
    population,
    {name: ids for name, ids in new.items() if ids.size},
    steps=settings.held_out_client_steps,
    # They begin with the first phase, whatever the others have come to.
    schedule=dataclasses.replace(make_schedule(settings), finetune_at=0),
    layout=simulation.layout,
  )


def batch_shape(settings: Settings, federation: Federation) -> Any:
  """Shape and type of the inputs of a training batch."""
  example = jax.eval_shape(federation.example)
  shape = (settings.batch_size, *example.shape[1:])
  return jax.ShapeDtypeStruct(shape, example.dtype)
