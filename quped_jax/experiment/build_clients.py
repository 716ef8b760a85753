"""Second step of assembly, clients: networks, precisions, and who has which."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import chances, checks
from quped_jax import models as models_lib
from quped_jax.data import augment
from quped_jax.data.federation import Federation
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.experiment.settings import Settings, swept
from quped_jax.files.info import ModelInfo
from quped_jax.files.weights import load_weights
from quped_jax.methods import api
from quped_jax.quantization import annealing, codebook_tree
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.alternating import Rates
from quped_jax.simulation.participation import Participation, load_trace
from quped_jax.simulation.state import Population


class Clients(NamedTuple):
  """The networks, and which client has which at which precision.

  Attributes:
    models: the networks, by cohort.
    assignment: which type each client is of, held-out clients last.
  """

  models: api.Models
  assignment: client_types_lib.Assignment

  @property
  def model(self) -> models_lib.Model:
    """The clients' network; if they have several, one of them."""
    return next(iter(self.models.clients.values()))


def build_clients(
  settings: Settings,
  federation: Federation,
  model: models_lib.Model | None = None,
) -> Clients:
  """Makes the networks, and says which client has which at which precision.

  Cohorts have their networks' names, or "clients" if there is only one.

  Args:
    settings: networks, precisions and budgets.
    federation: of all clients, held-out clients last; it gives the shape of a
      sample and the number of classes.
    model: the network of all clients, instead of those that the settings name.

  Raises:
    ValueError: an unknown network, or one that does not fit the data, a budget
      too small for any, or quantized clients whose network has nothing
      to quantize.
  """
  check_networks(settings, model)
  if model is None:
    clients = _named_networks(settings, federation)
  else:
    clients = _given_network(settings, federation, model)
  _check_quantizable(federation, clients)
  return clients


def check_networks(
  settings: Settings, model: models_lib.Model | None = None
) -> None:
  """Raises a ValueError unless there are networks of the settings' names.

  Not part of the settings' own checks: a network may be registered after they
  were made.

  Args:
    settings: names of networks.
    model: a network that is given instead, if any.
  """
  if model is not None:
    models_lib.check_type(model)
  known = models_lib.model_names()
  field = "client_types" if settings.client_types else "candidates"
  if settings.client_types or settings.candidates:
    for network in settings.networks():
      checks.choice(field, network.model, known)
      models_lib.width_options(*network, f"{field}={str(network)!r}")
  if model is None:
    checks.choice("model", settings.model, known)
    _check_padding(settings)
  elif settings.client_types or settings.budget_bytes:
    raise ValueError(
      f"{'client_types' if settings.client_types else 'budget_bytes'}: must "
      "not be set with a given model, which is that of all clients; register "
      "it with register_model"
    )
  if settings.shared_model:
    checks.choice("shared_model", settings.shared_model, known)


def _check_padding(settings: Settings) -> None:
  """Raises a ValueError for a padding without a network that takes it."""
  if settings.padding == "same":
    return
  networks = dict.fromkeys((*settings.networks(), settings.shared_network()))
  if not any(models_lib.takes_padding(network.model) for network in networks):
    raise ValueError(
      f"padding={settings.padding!r}: must be 'same' with "
      f"{', '.join(map(str, networks))}; only cnn1 and cnn2 take another"
    )


def _named_networks(settings: Settings, federation: Federation) -> Clients:
  """The networks that the settings name."""
  shared = settings.shared_network()
  made = {
    network: _create(settings, federation, network)
    for network in dict.fromkeys((*settings.networks(), shared))
  }
  if settings.warm_start:
    _start_warm(settings, federation, made)
  assignment = _assign(settings, federation, made)
  clients = {
    name: made[network] for network, name in assignment.cohort_names().items()
  }
  if len(clients) > 1:
    for name, members in assignment.members().items():
      if np.all(assignment.bits[members] == codebook_lib.FULL_PRECISION):
        # Statically: it costs no passes that other cohorts need.
        clients[name] = clients[name]._replace(is_quantized=lambda path: False)
  return Clients(api.Models(shared=made[shared], clients=clients), assignment)


def _given_network(
  settings: Settings, federation: Federation, model: models_lib.Model
) -> Clients:
  """One network that all clients have."""
  if settings.compute_dtype != "float32":
    raise ValueError(
      f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with a "
      "given model, which computes in the type that it was made for"
    )
  if settings.padding != "same":
    raise ValueError(
      f"padding={settings.padding!r}: must be 'same' with a given model, which "
      "pads as it was made to"
    )
  example = jax.eval_shape(federation.example)
  model = models_lib.settle(model, federation.num_classes, example)
  models_lib.check_trainable(model, example)
  _warn_of_plain_convolutions(model, example)
  shared = model
  own = client_types_lib.Network(settings.model, settings.hidden)
  if settings.shared_model and settings.shared_network() != own:
    shared = _create(settings, federation, settings.shared_network())
  assignment = _assign(settings, federation, {own: model})
  cohort = {name: model for name in assignment.members()}
  return Clients(api.Models(shared=shared, clients=cohort), assignment)


def _start_warm(
  settings: Settings,
  federation: Federation,
  made: dict[client_types_lib.Network, models_lib.Model],
) -> None:
  """Replaces the network whose initial weights come from a file."""
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


def describe(
  settings: Settings, federation: Federation, network: client_types_lib.Network
) -> ModelInfo:
  """How a file would describe the network, without a client or precision."""
  options: dict[str, Any] = models_lib.width_options(*network)
  if settings.padding != "same" and models_lib.takes_padding(network.model):
    options |= {"padding": settings.padding}
  return ModelInfo(
    model=network.model,
    num_classes=federation.num_classes,
    input_shape=jax.eval_shape(federation.example).shape[1:],
    options=options,
    conv=settings.conv,
    compute_dtype=settings.compute_dtype,
    granularity=settings.granularity,
    dataset=federation.name,
    method=settings.method,
  )


def _create(settings, federation, network) -> models_lib.Model:
  info = describe(settings, federation, network)
  if models_lib.takes_images(network.model):
    augment.warn_of_channels_first(info.input_shape)
  model = info.create()
  variables = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )
  most = max((x.size for x in jax.tree.leaves(variables)), default=0)
  if most >= 2**31:
    raise ValueError(
      f"model={str(network)!r}: must have less than 2**31 weights in each "
      f"layer; got {most:,}"
    )
  if not models_lib.is_built_in(network.model):
    example = jax.eval_shape(federation.example)
    models_lib.check_trainable(model, example)
    _warn_of_plain_convolutions(model, example)
  return model


def _assign(
  settings: Settings,
  federation: Federation,
  made: Mapping[client_types_lib.Network, models_lib.Model],
) -> client_types_lib.Assignment:
  """Which type each client is of, held-out clients last."""
  if settings.client_types:
    types, counts = client_types_lib.parse_client_types(settings.client_types)
    return client_types_lib.assign_counts(
      types, counts, settings.held_out_clients
    )
  types = [
    client_types_lib.ClientType(network, bits, turn)
    for network in settings.networks()
    for turn, bits in enumerate(settings.bits)
  ]
  if not settings.budget_bytes:
    everyone = settings.clients + settings.held_out_clients
    return client_types_lib.assign_in_turn(types, everyone)
  sizes = {x: _packed_bytes(settings, federation, made, x) for x in types}
  return _assign_by_budget(settings, sizes)


def _packed_bytes(settings, federation, made, client_type) -> int:
  """Size of the packed model of a client of that type."""
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


def _assign_by_budget(
  settings: Settings, sizes: Mapping[client_types_lib.ClientType, int]
) -> client_types_lib.Assignment:
  """Draws every client's budget, and gives it the largest type that fits."""
  everyone = settings.clients + settings.held_out_clients
  budgets = client_types_lib.draw_budgets(
    settings.budget_bytes, everyone, settings.seed
  )
  # An error if any budget is too small, whichever are drawn.
  client_types_lib.assign_by_budget(np.asarray(settings.budget_bytes), sizes)
  trained = client_types_lib.assign_by_budget(
    budgets[: settings.clients], sizes
  )
  if not settings.held_out_clients:
    return trained
  # Held-out clients have networks that somebody trains.
  known = trained.cohorts()
  new = client_types_lib.assign_by_budget(
    budgets[settings.clients :],
    {x: size for x, size in sizes.items() if x.network in known},
  )
  index = [trained.client_types.index(x) for x in new.client_types]
  of_new = np.array(index, np.int32)[new.of_client]
  return client_types_lib.Assignment(
    trained.client_types, np.append(trained.of_client, of_new), budgets
  )


def build_population(
  settings: Settings,
  assignment: client_types_lib.Assignment | None = None,
  own_steps: np.ndarray | None = None,
) -> Population:
  """What each client brings: precision, step sizes, and when it takes part.

  Args:
    settings: all settings, with `steps` as they follow from epochs and budget.
    assignment: which type each client is of; `bits` in turn if None.
    own_steps: the local steps of each client that trains; `steps` if None.

  Raises:
    ValueError: a participation trace that cannot be read.
  """
  if assignment is None:
    network = client_types_lib.make_network(settings.model, settings.hidden)
    types = [
      client_types_lib.ClientType(network, bits, turn)
      for turn, bits in enumerate(settings.bits)
    ]
    everyone = settings.clients + settings.held_out_clients
    assignment = client_types_lib.assign_in_turn(types, everyone)

  def per_client(values):
    return jnp.asarray(assignment.per_client(values), jnp.float32)

  return Population(
    spec=api.ClientSpec(bits=jnp.asarray(assignment.bits)),
    rates=Rates(
      learning_rate=per_client(settings.learning_rate),
      centers_learning_rate=per_client(settings.centers_learning_rate),
      strength=per_client((settings.strength,)),
    ),
    shared_learning_rate=jnp.float32(settings.shared_learning_rate),
    participation=_build_participation(settings, own_steps),
    values=swept.values_of(settings),
    rounds=_rounds(settings),
  )


def _rounds(settings: Settings) -> jax.Array | None:
  """How many rounds the training has, if an estimator goes by it."""
  if settings.estimator not in annealing.ANNEALED:
    return None
  return jnp.float32(settings.anneal_rounds or settings.rounds)


def _build_participation(settings, own_steps) -> Participation:
  def chance(value):
    return chances.make(value) if value else None

  probability, trace = None, None
  if settings.participation:
    turn = np.arange(settings.clients) % len(settings.participation)
    probability = chances.make(np.asarray(settings.participation)[turn])
  if settings.participation_trace:
    trace = load_trace(
      settings.participation_trace, settings.clients, settings.rounds
    )
  return Participation(
    probability=probability,
    trace=trace,
    dropout=chance(settings.dropout),
    stragglers=chance(settings.stragglers),
    own_steps=None if own_steps is None else jnp.asarray(own_steps, jnp.int32),
    count=settings.clients_per_round or None,
    steps=settings.steps,
  )


def _check_quantizable(federation: Federation, clients: Clients) -> None:
  """Quantized clients have something to quantize."""
  for name, members in clients.assignment.members().items():
    bits = clients.assignment.bits[members]
    if np.all(bits == codebook_lib.FULL_PRECISION):
      continue
    model = clients.models.clients[name]
    params, _ = jax.eval_shape(
      model.init, jax.random.key(0), federation.example()
    )
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    paths = [codebook_tree.path_name(path) for path, _ in leaves]
    if not any(model.is_quantized(path) for path in paths):
      raise ValueError(
        f"bits={tuple(np.unique(bits).tolist())}: must be "
        f"{codebook_lib.FULL_PRECISION} for a model with nothing to quantize; "
        f"of {model.name!r} that is {', '.join(paths)} (kernels of hidden "
        "layers are quantized, not of the first and the last: give 'mlp' two "
        "hidden widths at least, or the model a predicate)"
      )


def _warn_of_plain_convolutions(model: models_lib.Model, example) -> None:
  """Warns of convolutions that would be faster on a CPU in another form."""
  if jax.default_backend() != "cpu":
    return
  found = models_lib.plain_convolutions(model, example)
  if found:
    warnings.warn(
      f"model={model.name!r}: the convolution with {found[0]!r} is many times "
      "slower on a CPU than it need be; give flax.linen.Conv the argument "
      'conv_general_dilated=qj.models.resolve_conv("auto")',
      stacklevel=2,
    )
