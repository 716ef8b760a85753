"""All settings of a federated experiment, checked, in one frozen dataclass."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import optax

from quped_jax import checks, methods, models
from quped_jax.data import SCHEMES
from quped_jax.data.augment import AUGMENTATIONS
from quped_jax.data.federation import check_batches
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.methods import api
from quped_jax.methods.wrappers import privacy as privacy_lib
from quped_jax.methods.wrappers import robust as robust_lib
from quped_jax.quantization import (
  alternating,
  optimizers,
  proximal,
  soft_quantizer,
  transforms,
)
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import participation as participation_lib
from quped_jax.simulation import store as store_lib
from quped_jax.simulation.schedule import Schedule

COMPUTE_DTYPES = ("float32", "bfloat16")
BUDGETS = ("steps", "gradients")
ON_DIVERGENCE = ("drop", "raise")
SAVED_MODELS = ("none", "clients")

_FLOAT_OR_INT = (int, float)
# Programs count in int32.
_WHOLE_LIMIT = 2**31


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a run depends on. Every field has a default that works.

  A tuple of per-precision step sizes has one entry, or one for each of
  `bits`. Rounds and steps are counts; times are in seconds nowhere.

  Attributes:
    dataset: name of a dataset, see `quped_jax.data.load_dataset`; or
      "synthetic", Gaussian classes made when drawn.
    data_dir: where prepared datasets lie; "" for QUPED_DATA_DIR or the
      default of tensorflow-datasets.
    seed: of the partition, the initial weights and the batches.
    clients: number of clients.
    synthetic_shape: of a sample of synthetic data.
    partition: "iid", "pathological", "dirichlet", "shards" or "natural".
    classes_per_client: of "pathological" (and of synthetic data).
    alpha: of "dirichlet".
    min_size: of "dirichlet", fewest samples of a client.
    shards_per_client: of "shards".
    groups_per_client: of "natural", say writers.
    train_fraction: of each client's samples, for a dataset that has no test
      split of its own.
    validation_fraction: of each client's training samples.
    augment: of training batches, "none" or "crop_flip".
    held_out_clients: number of further clients, which take no part in training:
      each starts from the global model when it is evaluated.
    held_out_client_steps: local steps that a held-out client takes first.
    public_size: samples of the public set, held out from all clients; 0 for no
      public set, which some methods need.
    public_dataset: name of the dataset that it is drawn from, of samples of the
      same shape; "" for `dataset` itself.
    public_labelled: whether labels of the public set are known.
    model: name of a network, see `quped_jax.models.create_model`.
    hidden: widths of the hidden layers of "mlp"; () for its default.
    client_types: if not "", the types that make up `clients`, each so many of a
      network at so many bits: "15*cnn1@1, 15*cnn1@2, 20*mlp(32,32)@32". Then
      `bits` says nothing, and `model` and `hidden` are the global model's.
    budget_bytes: if not (), what each client's packed model may take, one of
      these, drawn for each: clients get the largest of `candidates`, each at
      each of `bits`, that fits.
    candidates: networks for `budget_bytes`, such as "cnn1, mlp(32,32)"; "" for
      `model` alone.
    shared_model: the global model's network, for methods in which clients keep
      models of their own; "" for `model`.
    shared_hidden: its widths, if it is an "mlp"; () for its default.
    conv: how convolutions are computed, see `quped_jax.models.resolve_conv`.
    compute_dtype: of the networks' passes, "float32" or "bfloat16"; parameters,
      levels and losses are float32 in either.
    warm_start: file of weights that every `model` starts from, of clients and
      server; networks of other `client_types` start afresh. "" for fresh ones.
    method: name of a federated method.
    rounds: number of rounds.
    steps: local steps of a client per round, one batch each.
    epochs: if positive, so many epochs of the average client instead.
    budget: what `steps` counts: "steps", the same for every method; or
      "gradients", those of local training, of which another method takes as
      many as make no more gradient evaluations (one at least).
    batch_size: samples per step.
    clients_per_round: how many clients take part in a round, drawn uniformly;
      0 for all.
    participation: chances that clients take part in a round, given to them in
      turn; () for certainty.
    participation_trace: file that says who takes part when, CSV with the
      columns round and client, both from 0; "" for none.
    dropout: chance that a participant does not get through the round: it keeps
      its state and sends nothing.
    stragglers: chance that a participant takes fewer local steps than `steps`,
      1 to `steps - 1`, all equally likely.
    aggregation: what the server takes of what clients send: the "mean", with
      the method's weights, or of clients that weigh the same the "median" or
      "trimmed_mean" of every coordinate; or "norm_clipped_mean". The last
      three are for methods whose server takes the mean of models.
    trim: share of the clients that "trimmed_mean" leaves out at either end of
      every coordinate.
    clip_norm: largest L2 norm of a message to "norm_clipped_mean".
    byzantine_clients: how many clients, the last of `clients`, send something
      false.
    attack: what they send: "sign_flip", minus `attack_scale` times what they
      should, or "random", Gaussian noise of that standard deviation.
    attack_scale: see there.
    dp_clip: if positive, the model that clients train together is
      differentially private: this is the largest L2 norm of a message, see
      `quped_jax.methods.wrappers.privacy`. It needs `participation`, uniform
      weights, and the extra "privacy".
    dp_noise: standard deviation of the noise on the sum of the messages, in
      units of `dp_clip`.
    dp_delta: delta, for which `summary.json` says epsilon.
    client_state: where clients' states are kept: "device"; or "host", in host
      memory, or "disk", in files in the workdir, for more clients than fit:
      then only participants are moved.
    clients_per_block: how many of them are moved at once; 0 for 256.
    bits: precisions, given to the clients in turn: 1 to 8, or 32.
    granularity: of codebooks, "tensor" or "channel".
    outer_level: if positive, levels start evenly from minus to plus this.
    estimator: "soft" or "hard" (straight to the nearest levels).
    sharpness: of the soft quantizer.
    sharpness_unit: "gap" (between levels) or "absolute".
    norm: of the regularizer that pulls weights to levels, "l1" or "l2".
    center_prox: "exact" or "subgradient".
    strength: lambda_0 of that regularizer.
    strength_ramp: whether round r has strength lambda_0 * (r + 1).
    strength_drop_factor: factor on it at each of `learning_rate_drops`.
    optimizer: of the weights, "sgd", "momentum", "adam" or "adamw".
    momentum: of "momentum".
    weight_decay: of the optimizer.
    weight_clip: if positive, quantized weights stay within plus or minus it.
    learning_rate: eta_1, step size of the weights, per precision.
    learning_rate_decay: factor per round.
    learning_rate_drops: rounds at which it drops.
    learning_rate_drop_factor: by how much.
    centers_optimizer: of the levels.
    centers_learning_rate: eta_2, step size of the levels, per precision.
    centers_clip: bound on the gradient of a level.
    centers_drops: rounds at which eta_2 drops.
    centers_drop_factor: by how much.
    shared_optimizer: of downloaded models that a client trains beside its
      own.
    shared_learning_rate: eta_3, their step size.
    finetune_at: round with which the fine-tuning phase begins, where the
      assignment of weights to levels is frozen; 0 for never.
    finetune_centers_learning_rate: eta_2 from then on.
    recalibration_batches: on how many batches batch-norm statistics of a
      quantized model are estimated again before it is evaluated.
    eval_every: rounds between evaluations; the last is always evaluated.
    strategy: how clients are run on each device: "auto", all at once ("vmap"),
      some at a time ("chunks"), or that with the loop on the host
      ("dispatch").
    chunk_size: of "chunks" and "dispatch".
    devices: over how many devices the clients are divided; 0 for all.
    on_divergence: what happens to clients that diverge: "drop" undoes the round
      of such a client, as if it had been absent, and warns; "raise" ends the
      run.
    max_message_norm: a client whose message is longer has diverged, and none
      may be longer than 1e19; 0 for 100 times the median of earlier rounds (and
      a limit of losses that follows from theirs), see
      `quped_jax.simulation.divergence`.
    checkpoint_every: rounds between checkpoints in the workdir; 0 for none that
      are counted so.
    checkpoint_minutes: save one after so many minutes without, at the end of a
      round; 0 for never.
    keep_checkpoints: how many of the latest are kept, beside the best.
    rounds_per_dispatch: how many rounds at most are started at once, where no
      evaluation or fine-tuning phase comes between; 0 for a number that follows
      from the work in a round.
    save_models: what a run leaves in the workdir's folder `models`: "none", or
      "clients", what every client would use (a packed file each), and the
      global model if there is one.
    method_options: the options of every method, by its name; see there.
  """

  dataset: str = "digits"
  data_dir: str = ""
  seed: int = 0
  clients: int = 40
  synthetic_shape: tuple[int, ...] = (64,)
  partition: str = "pathological"
  classes_per_client: int = 3
  alpha: float = 0.5
  min_size: int = 10
  shards_per_client: int = 2
  groups_per_client: int = 3
  train_fraction: float = 0.5
  validation_fraction: float = 0.0
  augment: str = "none"
  held_out_clients: int = 0
  held_out_client_steps: int = 10
  public_size: int = 0
  public_dataset: str = ""
  public_labelled: bool = True
  model: str = "mlp"
  hidden: tuple[int, ...] = ()
  client_types: str = ""
  budget_bytes: tuple[int, ...] = ()
  candidates: str = ""
  shared_model: str = ""
  shared_hidden: tuple[int, ...] = ()
  conv: str = "auto"
  compute_dtype: str = "float32"
  warm_start: str = ""
  method: str = "quped"
  rounds: int = 40
  steps: int = 40
  epochs: int = 0
  budget: str = "steps"
  batch_size: int = 16
  clients_per_round: int = 0
  participation: tuple[float, ...] = ()
  participation_trace: str = ""
  dropout: float = 0.0
  stragglers: float = 0.0
  aggregation: str = "mean"
  trim: float = 0.1
  clip_norm: float = 1.0
  byzantine_clients: int = 0
  attack: str = "sign_flip"
  attack_scale: float = 10.0
  dp_clip: float = 0.0
  dp_noise: float = 0.0
  dp_delta: float = 1e-5
  client_state: str = "device"
  clients_per_block: int = 0
  bits: tuple[int, ...] = (1,)
  granularity: str = "tensor"
  outer_level: float = 0.0
  estimator: str = "soft"
  sharpness: float = 10.0
  sharpness_unit: str = "gap"
  norm: str = "l1"
  center_prox: str = "exact"
  strength: float = 1e-4
  strength_ramp: bool = True
  strength_drop_factor: float = 1.0
  optimizer: str = "sgd"
  momentum: float = 0.9
  weight_decay: float = 0.0
  weight_clip: float = 0.0
  learning_rate: tuple[float, ...] = (0.05,)
  learning_rate_decay: float = 1.0
  learning_rate_drops: tuple[int, ...] = ()
  learning_rate_drop_factor: float = 0.1
  centers_optimizer: str = "sgd"
  centers_learning_rate: tuple[float, ...] = (1e-3,)
  centers_clip: float = 10.0
  centers_drops: tuple[int, ...] = ()
  centers_drop_factor: float = 0.1
  shared_optimizer: str = "sgd"
  shared_learning_rate: float = 0.05
  finetune_at: int = 0
  finetune_centers_learning_rate: float = 1e-5
  recalibration_batches: int = 10
  eval_every: int = 1
  strategy: str = "auto"
  chunk_size: int = 1
  devices: int = 0
  on_divergence: str = "drop"
  max_message_norm: float = 0.0
  checkpoint_every: int = 0
  checkpoint_minutes: float = 10.0
  keep_checkpoints: int = 2
  rounds_per_dispatch: int = 0
  save_models: str = "none"
  method_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    checked = _checked(dataclasses.fields(self), vars(self))
    for field, value in checked.items():
      object.__setattr__(self, field, value)
    methods.get_method(self.method)
    unknown = set(self.method_options) - set(methods.METHODS)
    if unknown:
      raise ValueError(
        f"method_options={sorted(unknown, key=str)}: must be names of methods, "
        f"{', '.join(sorted(methods.METHODS))}"
      )
    self.options()
    if not self.bits:
      raise ValueError("bits=(): must hold at least one precision")
    codebook_lib.check_bits(self.bits)
    clients_lib.check_strategy(self.strategy, self.chunk_size, self.devices)
    for field in (
      "clients",
      "rounds",
      "steps",
      "batch_size",
      "eval_every",
      "keep_checkpoints",
    ):
      checks.at_least(field, getattr(self, field), 1)
    for field in (
      "epochs",
      "clients_per_round",
      "finetune_at",
      "recalibration_batches",
      "rounds_per_dispatch",
      "checkpoint_every",
      "held_out_clients",
      "held_out_client_steps",
      "public_size",
      "seed",
    ):
      checks.at_least(field, getattr(self, field), 0)
    for field in ("steps", "held_out_client_steps", "recalibration_batches"):
      count = getattr(self, field)
      check_batches(f"{field}={count}", count, self.batch_size)
    if self.finetune_at >= self.rounds:
      raise ValueError(
        f"finetune_at={self.finetune_at}: must be less than rounds="
        f"{self.rounds}, or 0 for no fine-tuning phase"
      )
    participation_lib.check_participation(
      self.clients,
      clients_per_round=self.clients_per_round,
      probability=self.participation,
      trace=self.participation_trace,
      dropout=self.dropout,
      stragglers=self.stragglers,
      # Those of `epochs` depend on the data.
      steps=2 if self.epochs else self.steps,
    )
    store_lib.check_store(
      self.client_state, self.clients_per_block, self.strategy
    )
    self._check_server_step()
    self._check_client_types()
    self._check_widths("hidden", "model")
    self._check_widths("shared_hidden", "shared_model")
    if self.public_dataset and not self.public_size:
      raise ValueError(
        f"public_size=0: must be positive with public_dataset="
        f"{self.public_dataset!r}"
      )
    for field in ("learning_rate", "centers_learning_rate"):
      rates = getattr(self, field)
      if len(rates) not in (1, len(self.turns)):
        each = (
          f"client_types={self.client_types!r}"
          if self.client_types
          else f"bits={self.bits}"
        )
        raise ValueError(
          f"{field}={rates}: must have one entry, or one for each of {each}"
        )
      for rate in rates:
        checks.not_negative(field, rate)
    for field in (
      "strength",
      "strength_drop_factor",
      "weight_decay",
      "weight_clip",
      "outer_level",
      "learning_rate_drop_factor",
      "centers_drop_factor",
      "shared_learning_rate",
      "finetune_centers_learning_rate",
      "max_message_norm",
      "checkpoint_minutes",
    ):
      checks.not_negative(field, getattr(self, field))
    for field in ("sharpness", "learning_rate_decay", "centers_clip"):
      checks.positive(field, getattr(self, field))
    checks.unit_interval("momentum", self.momentum)
    for field in ("optimizer", "centers_optimizer", "shared_optimizer"):
      checks.choice(field, getattr(self, field), optimizers.OPTIMIZERS)
    checks.choice("partition", self.partition, tuple(sorted(SCHEMES)))
    checks.choice("budget", self.budget, BUDGETS)
    checks.choice("on_divergence", self.on_divergence, ON_DIVERGENCE)
    checks.choice("save_models", self.save_models, SAVED_MODELS)
    checks.choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
    checks.choice("augment", self.augment, tuple(AUGMENTATIONS))
    checks.choice("granularity", self.granularity, ("tensor", "channel"))
    checks.choice("estimator", self.estimator, alternating.ESTIMATORS)
    soft_quantizer.check_sharpness(self.sharpness, self.sharpness_unit)
    proximal.check_norm(self.norm)
    proximal.check_center_method(self.center_prox)
    for field in ("learning_rate_drops", "centers_drops"):
      drops = getattr(self, field)
      if list(drops) != sorted(set(drops)) or any(at < 1 for at in drops):
        raise ValueError(
          f"{field}={drops}: must be rounds from 1 on, in increasing order"
        )

  def _check_server_step(self) -> None:
    """An average, attacks on it, and privacy."""
    robust_lib.check_aggregation(
      self.aggregation, self.trim, self.clip_norm, self.client_state
    )
    robust_lib.check_attack(
      self.byzantine_clients, self.attack, self.attack_scale, self.clients
    )
    privacy_lib.check_privacy(
      dp_clip=self.dp_clip,
      dp_noise=self.dp_noise,
      dp_delta=self.dp_delta,
      clients=self.clients,
      participation=self.participation,
      # A method without this option has uniform weights.
      weighting=getattr(self.options(), "weighting", "uniform"),
      method=self.method,
      aggregation=self.aggregation,
      epochs=self.epochs,
    )

  def _check_client_types(self) -> None:
    """Client types that add up, and budgets with candidates."""
    if self.client_types:
      _, counts = client_types_lib.parse_client_types(self.client_types)
      if sum(counts) != self.clients:
        raise ValueError(
          f"client_types={self.client_types!r}: must add up to clients="
          f"{self.clients}; got {' + '.join(map(str, counts))} = {sum(counts)}"
        )
      if self.budget_bytes:
        raise ValueError(
          f"budget_bytes={self.budget_bytes}: must be () with client_types="
          f"{self.client_types!r}, which say what clients have"
        )
    for budget in self.budget_bytes:
      checks.at_least("budget_bytes", budget, 1)
    if self.candidates:
      client_types_lib.parse_networks("candidates", self.candidates)
      if not self.budget_bytes:
        raise ValueError(
          f"candidates={self.candidates!r}: must be '' without budget_bytes, "
          "which choose among them"
        )

  def _check_widths(self, field: str, model_field: str) -> None:
    """Widths are those of an MLP."""
    widths, model = getattr(self, field), getattr(self, model_field)
    if any(width < 1 for width in widths):
      raise ValueError(f"{field}={widths}: must be positive widths")
    if widths and model != "mlp":
      # A misspelt model is the likelier mistake.
      if model:
        checks.choice(model_field, model, models.model_names())
      raise ValueError(
        f"{field}={widths}: must be () for {model_field}={model!r}, as by "
        f"--config.{field}='()'; it sets the layers of 'mlp'"
      )

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
    """Settings from a flat mapping, in which methods' names hold options.

    Args:
      values: field to value; `{"quped": {"lambda_p": 0.3}}` sets an option.

    Raises:
      ValueError: an unknown field, or a value that is not allowed.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    fields.remove("method_options")
    options, plain = {}, {}
    for name, value in values.items():
      if name in methods.METHODS:
        options[name] = value
      elif name in fields:
        plain[name] = tuple(value) if isinstance(value, list) else value
      else:
        raise ValueError(
          f"{name}={_shown(value)}: no such field; must be one of "
          f"{', '.join(sorted(fields | set(methods.METHODS)))}"
        )
    return cls(method_options=options, **plain)

  def to_dict(self) -> dict[str, Any]:
    """The inverse of `from_dict`, with all defaults filled in."""
    values = dataclasses.asdict(self)
    del values["method_options"]
    given = self.method_options
    for name, entry in methods.METHODS.items():
      chosen = _make_options(name, entry.options, given.get(name, {}))
      values[name] = dataclasses.asdict(chosen)
    return values

  def options(self) -> Any:
    """The options of the method that is run, as its own dataclass."""
    made = {
      name: _make_options(
        name, entry.options, self.method_options.get(name, {})
      )
      for name, entry in methods.METHODS.items()
    }
    return made[self.method]

  @property
  def turns(self) -> tuple[int, ...]:
    """The precisions that per-precision step sizes belong to."""
    if self.client_types:
      return tuple(
        x.bits
        for x in client_types_lib.parse_client_types(self.client_types)[0]
      )
    return self.bits

  @property
  def quantized(self) -> bool:
    """Whether any client may have less than full precision."""
    return any(b != codebook_lib.FULL_PRECISION for b in self.turns)

  def networks(self) -> tuple[client_types_lib.Network, ...]:
    """The networks that clients may have."""
    if self.client_types:
      client_types, _ = client_types_lib.parse_client_types(self.client_types)
      return tuple(dict.fromkeys(x.network for x in client_types))
    if self.candidates:
      return client_types_lib.parse_networks("candidates", self.candidates)
    return (client_types_lib.make_network(self.model, self.hidden),)

  def shared_network(self) -> client_types_lib.Network:
    """The global model's network."""
    if self.shared_model:
      return client_types_lib.make_network(
        self.shared_model, self.shared_hidden
      )
    return client_types_lib.make_network(self.model, self.hidden)

  def schedule(self) -> Schedule:
    """How the rates change over the rounds."""
    names = [field.name for field in dataclasses.fields(Schedule)]
    return Schedule(**{name: getattr(self, name) for name in names})

  def training(self, bits: Any = None) -> api.Training:
    """How clients train.

    Args:
      bits: precisions of all clients, if not those that the settings name.
    """
    bits = self.turns if bits is None else bits
    quantized = min(bits) < codebook_lib.FULL_PRECISION

    def optimizer(name):
      return optimizers.base_optimizer(
        name, momentum=self.momentum, weight_decay=self.weight_decay
      )

    weights = [optimizer(self.optimizer)]
    if self.weight_clip:
      weights.append(transforms.keep_params_in_box(self.weight_clip))
    centers = optax.chain(
      optax.clip(self.centers_clip),
      optimizers.base_optimizer(self.centers_optimizer, momentum=self.momentum),
    )
    steps = alternating.make_alternating(
      optax.chain(*weights),
      centers,
      estimator=self.estimator,
      sharpness=self.sharpness,
      sharpness_unit=self.sharpness_unit,
      norm=self.norm,
      center_prox=self.center_prox,
    )
    return api.Training(
      steps=self.steps,
      batch_size=self.batch_size,
      alternating=steps,
      shared_optimizer=optimizer(self.shared_optimizer),
      max_levels=(codebook_lib.max_levels_for(bits) if quantized else None),
      granularity=self.granularity,
      outer_level=self.outer_level or None,
      recalibration_batches=self.recalibration_batches,
      plain_sgd=self.optimizer == "sgd"
      and not self.weight_decay
      and not self.weight_clip,
    )


def _is_number(value: Any) -> bool:
  return isinstance(value, _FLOAT_OR_INT) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
  # A null character ends the name of a file.
  return isinstance(value, str) and "\0" not in value


# What a field of some type takes, in words and as a predicate.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
  "str": ("text", _is_text),
  "bool": ("True or False", lambda v: isinstance(v, bool)),
  "int": ("a whole number", _is_whole),
  "float": ("a number", _is_number),
  "tuple[int, ...]": (
    "a tuple of whole numbers, such as (1, 2)",
    lambda v: isinstance(v, tuple) and all(map(_is_whole, v)),
  ),
  "tuple[float, ...]": (
    "a tuple of numbers, such as (0.1,)",
    lambda v: isinstance(v, tuple) and all(map(_is_number, v)),
  ),
  str(Mapping[str, Any]): ("a mapping", lambda v: isinstance(v, Mapping)),
}


def _checked(fields, values: Mapping[str, Any], prefix: str = "") -> dict:
  """The values, each of the type of its field; an int does for a float."""
  checked = dict(values)
  for field in fields:
    if field.name not in values:
      continue
    value, name = values[field.name], f"{prefix}{field.name}"
    kind = str(field.type)
    if kind not in _TYPES:
      kind = getattr(field.type, "__name__", "")
    if kind not in _TYPES:
      continue
    words, fits = _TYPES[kind]
    if not fits(value):
      raise ValueError(f"{name}={_shown(value)}: must be {words}")
    numbers = value if isinstance(value, tuple) else (value,)
    if "int" in kind:
      _check_whole(name, value, numbers)
    elif "float" in kind:
      _check_size(name, value, numbers)
      floats = tuple(map(float, numbers))
      checked[field.name] = floats if isinstance(value, tuple) else floats[0]
  return checked


def _check_whole(name: str, value: Any, numbers: tuple) -> None:
  if not all(-_WHOLE_LIMIT <= x < _WHOLE_LIMIT for x in numbers):
    raise ValueError(f"{name}={_shown(value)}: must be less than 2**31 in size")


def _check_size(name: str, value: Any, numbers: tuple) -> None:
  """Numbers that float32 holds; those not finite are refused elsewhere."""
  if any(checks.LARGEST < abs(x) < float("inf") for x in numbers):
    raise ValueError(
      f"{name}={_shown(value)}: must be at most {checks.LARGEST:.2g}, which "
      "float32 holds"
    )


def _shown(value: Any) -> str:
  """A value as it is written, shortened if that is long."""
  try:
    text = repr(value)
  except ValueError:  # It holds an int of thousands of digits.
    return "a number of thousands of digits"
  return text if len(text) < 200 else reprlib.repr(value)


def _make_options(name: str, kind: type, given: Mapping[str, Any]) -> Any:
  if not isinstance(given, Mapping):
    raise ValueError(f"{name}={_shown(given)}: must be a mapping of options")
  # JSON has no tuples.
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
  allowed = {field.name for field in dataclasses.fields(kind)}
  for field, value in given.items():
    if field not in allowed:
      raise ValueError(
        f"{name}.{field}={_shown(value)}: no such option; must be one of "
        f"{', '.join(sorted(allowed)) or '(none)'}"
      )
  return kind(**_checked(dataclasses.fields(kind), given, f"{name}."))
