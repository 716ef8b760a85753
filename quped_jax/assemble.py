"""From settings to a simulation: data, networks, method and programs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import codebook as codebook_lib
from quped_jax import data as data_lib
from quped_jax import memory as memory_lib
from quped_jax import methods
from quped_jax import models as models_lib
from quped_jax.alternating import Rates
from quped_jax.data.augment import check_augment
from quped_jax.federation import (
  Federation,
  make_federation,
  make_public,
  synthetic_federation,
)
from quped_jax.methods import api
from quped_jax.newcomers import make_newcomers
from quped_jax.settings import Settings
from quped_jax.simulate import (
  Population,
  Simulation,
  SimulationState,
  make_simulation,
)
from quped_jax.weights import load_weights

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
      settings.seed, classes_per_client=settings.classes_per_client
    )
    check_augment(settings.augment, source.shape)
    if settings.public_size:
      raise ValueError(
        f"public_size={settings.public_size}: must be 0 with "
        "dataset='synthetic', whose samples belong to clients"
      )
    return synthetic_federation(
      source,
      settings.clients + settings.new_clients,
      validation_fraction=settings.validation_fraction,
    )
  if dataset is None:
    api.check_choice(
      "dataset", settings.dataset, (*data_lib.dataset_names(), "synthetic")
    )
    dataset = data_lib.load_dataset(settings.dataset, settings.data_dir or None)
  public, held_out = _load_public(settings, dataset)
  parts = data_lib.partition(
    dataset,
    settings.partition,
    settings.clients + settings.new_clients,
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
    api.check_choice(
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


def load_model(settings: Settings, federation: Federation) -> models_lib.Model:
  """The clients' network, shaped for the federation's data."""
  model = _network(settings, federation, settings.model, settings.hidden)
  if settings.warm_start:
    like = jax.eval_shape(model.init, jax.random.key(0), federation.example())
    weights = load_weights(settings.warm_start, *like)
    model = model._replace(init=lambda key, inputs: weights)
  return model


def _shared_model(settings, federation, model) -> models_lib.Model:
  """The global model's network, which by default is that of the clients."""
  own = settings.model, settings.hidden
  if not settings.shared_model or own == (
    settings.shared_model,
    settings.shared_hidden,
  ):
    return model
  return _network(
    settings, federation, settings.shared_model, settings.shared_hidden
  )


def _network(settings, federation, name, hidden) -> models_lib.Model:
  shape = jax.eval_shape(federation.example).shape
  options: dict[str, Any] = {"features": hidden} if hidden else {}
  if settings.compute_dtype != "float32":
    if not models_lib.takes_dtype(name):
      raise ValueError(
        f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with "
        f"model={name!r}, which takes no dtype"
      )
    options["dtype"] = jnp.dtype(settings.compute_dtype)
  return models_lib.create_model(
    name,
    federation.num_classes,
    image_channels=shape[-1] if len(shape) == 4 else None,
    conv=settings.conv,
    **options,
  )


def population_of(settings: Settings) -> Population:
  """What each client brings: precision and step sizes, in turn."""

  def floats(values):
    return jnp.asarray(settings.per_client(values), jnp.float32)

  return Population(
    spec=api.ClientSpec(
      bits=jnp.asarray(settings.per_client(settings.bits), jnp.int32)
    ),
    rates=Rates(
      learning_rate=floats(settings.learning_rate),
      centers_learning_rate=floats(settings.centers_learning_rate),
      strength=floats((settings.strength,)),
    ),
    shared_learning_rate=jnp.float32(settings.shared_learning_rate),
  )


class Assembly(NamedTuple):
  """All that a run is made of.

  Attributes:
    settings: with `steps` as they are for this data and method.
    federation: of all clients, new ones last.
    model: of the clients.
    simulation: the programs, of the clients that train.
    newcomers: `state -> {variant: accuracy [new clients]}`.
    method: that is simulated.
  """

  settings: Settings
  federation: Federation
  model: models_lib.Model
  simulation: Simulation
  newcomers: Callable[[SimulationState], dict[str, np.ndarray]]
  method: api.FederatedMethod

  def headline_model(self) -> tuple[Any, Any, models_lib.Model]:
    """Shapes of the model that comparisons report: (params, stats, model)."""
    method, found = self.method, []

    def variant(key, federation, population):
      inputs = federation.example()
      spec, rates = population.of_client(0)
      server = method.init_server(key, inputs)
      client = method.init_client(key, inputs, server, 0, spec, _COHORT)
      context = api.Context(
        round=jnp.int32(0),
        key=key,
        client_id=jnp.int32(0),
        spec=spec,
        rates=rates,
        shared_learning_rate=population.shared_learning_rate,
        public=federation.public,
      )
      variants = method.variants(
        server, client, federation.client(0), context, _COHORT
      )
      params, stats, model = variants[method.headline]
      found.append(model)
      return params, stats

    shapes = jax.eval_shape(
      variant,
      jax.random.key(0),
      self.federation,
      population_of(self.settings),
    )
    return (*shapes, found[-1])


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
) -> Assembly:
  """Makes all that a run of the settings is made of; see `build`."""
  # Before the data, which may have to be fetched first.
  if model is None:
    api.check_choice("model", settings.model, models_lib.model_names())
  if settings.shared_model:
    api.check_choice(
      "shared_model", settings.shared_model, models_lib.model_names()
    )
  federation = federation or load_federation(settings)
  everyone = settings.clients + settings.new_clients
  if federation.num_clients != everyone:
    raise ValueError(
      f"clients={settings.clients}: must be "
      f"{federation.num_clients - settings.new_clients}, so that with "
      f"new_clients={settings.new_clients} they are as many as the given "
      "federation's"
    )
  if model is not None and settings.compute_dtype != "float32":
    raise ValueError(
      f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with a "
      "given model, which computes in the type that it was made for"
    )
  model = model or load_model(settings, federation)
  if settings.quantized:
    _check_quantizable(settings, federation, model)
  trained = federation.first(settings.clients)
  if settings.epochs:
    average = np.mean(np.asarray(trained.train.count))
    steps = settings.epochs * max(int(average) // settings.batch_size, 1)
    settings = dataclasses.replace(settings, steps=steps, epochs=0)
  shared = _shared_model(settings, federation, model)
  method, settings = _make_method(
    settings, trained, api.Models(shared=shared, clients={_COHORT: model})
  )
  simulation = _simulation(settings, trained, model, method)
  newcomers = _newcomers(settings, federation, method, simulation)
  return Assembly(settings, federation, model, simulation, newcomers, method)


def _make_method(
  settings, federation, models
) -> tuple[api.FederatedMethod, Settings]:
  """The method, and the settings with the local steps of its budget."""
  entry = methods.get_method(settings.method)
  steps = given = settings.steps
  while True:
    settings = dataclasses.replace(settings, steps=steps)
    training = settings.training()
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
    steps -= 1
  if settings.finetune_at and method.begin_finetune is None:
    raise ValueError(
      f"finetune_at={settings.finetune_at}: must be 0 with "
      f"method={settings.method!r}, which has no second phase"
    )
  return method, settings


def _check_quantizable(settings, federation, model) -> None:
  params, _ = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  names = [codebook_lib.path_name(path) for path, _ in leaves]
  if not any(model.is_quantized(name) for name in names):
    raise ValueError(
      f"bits={settings.bits}: must be {codebook_lib.FULL_PRECISION} for a "
      f"model with nothing to quantize; of {model.name!r} that is "
      f"{', '.join(names)} (kernels of hidden layers are quantized: give "
      "'mlp' two hidden widths at least, or the model a predicate)"
    )


def _simulation(settings, federation, model, method) -> Simulation:
  return make_simulation(
    method,
    federation,
    population_of(settings),
    {_COHORT: np.arange(federation.num_clients)},
    schedule=settings.schedule(),
    strategy=settings.strategy,
    chunk_size=settings.chunk_size,
    devices=settings.devices,
    clients_per_round=settings.clients_per_round or None,
    step_bytes=functools.partial(
      memory_lib.step_bytes,
      model,
      batch_shape(settings, federation),
      quantized=settings.quantized,
    ),
  )


def _newcomers(settings, federation, method, simulation):
  if not settings.new_clients:
    return lambda state: {}
  ids = np.arange(settings.clients, federation.num_clients)
  return make_newcomers(
    method,
    settings.training(),
    federation,
    population_of(settings),
    {_COHORT: ids},
    steps=settings.new_client_steps,
    # They begin with the first phase, whatever the others have come to.
    schedule=dataclasses.replace(settings.schedule(), finetune_at=0),
    layout=simulation.layout,
  )


def batch_shape(settings: Settings, federation: Federation) -> Any:
  """Shape and type of the inputs of a training batch."""
  example = jax.eval_shape(federation.example)
  shape = (settings.batch_size, *example.shape[1:])
  return jax.ShapeDtypeStruct(shape, example.dtype)
