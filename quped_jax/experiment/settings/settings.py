"""`Settings`: all groups in one flat dataclass, and rules across groups."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from quped_jax import methods
from quped_jax.data.federation import check_batches
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.experiment.settings.clients import (
  ClientSettings,
  NetworkSettings,
  ParticipationSettings,
)
from quped_jax.experiment.settings.data import DataSettings, PartitionSettings
from quped_jax.experiment.settings.execution import (
  DivergenceSettings,
  ExecutionSettings,
  OutputSettings,
)
from quped_jax.experiment.settings.fields import check_names, group
from quped_jax.experiment.settings.optimization import (
  AnnealingSettings,
  LevelSettings,
  QuantizationSettings,
  WeightSettings,
)
from quped_jax.experiment.settings.server import (
  CompressionSettings,
  PrivacySettings,
  RobustnessSettings,
)
from quped_jax.experiment.settings.training import TrainingSettings
from quped_jax.methods.wrappers import byzantine
from quped_jax.methods.wrappers import privacy as privacy_lib
from quped_jax.methods.wrappers import robust as robust_lib
from quped_jax.simulation import participation as participation_lib


# A dataclass has the fields of its last base first.
@group
class Settings(
  OutputSettings,
  DivergenceSettings,
  ExecutionSettings,
  LevelSettings,
  WeightSettings,
  AnnealingSettings,
  QuantizationSettings,
  PrivacySettings,
  RobustnessSettings,
  CompressionSettings,
  ParticipationSettings,
  NetworkSettings,
  ClientSettings,
  TrainingSettings,
  PartitionSettings,
  DataSettings,
):
  """What a run depends on. Every setting has a default that works.

  It is flat: `Settings(bits=(1, 2)).bits`. A function that needs the settings
  of one group only may say so by its type. The name of a method takes that
  method's options.

  Raises:
    ValueError: a value that is not allowed, or settings that do not go
      together; the message names the field, the value and what is allowed.

  Examples:
    >>> qj.Settings(bits=[1, 2, 32], rounds=10, quped={"lambda_p": 0.3})
    Settings(method_options={'quped': {'lambda_p': 0.3}}, rounds=10, bits=...)
    >>> qj.Settings(bits=3.5)
    Traceback (most recent call last):
    ValueError: bits=3.5: must be ...
  """

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
    check_names(values, fields | set(methods.METHODS))
    return cls(**values)

  def to_dict(self) -> dict[str, Any]:
    """The inverse of `from_dict`, with all defaults filled in."""
    values = dataclasses.asdict(self)
    del values["method_options"]
    for name, options in self._all_options().items():
      values[name] = dataclasses.asdict(options)
    return values

  def identity(self) -> dict[str, Any]:
    """What results follow from: a run goes on only if it stays the same.

    `to_dict` without settings that change no result, without the options of
    methods that are not run, and without later settings and options at
    their defaults.
    """
    free = {f.name for f in dataclasses.fields(self) if f.metadata["free"]}
    unsaid, options = _unsaid(self), _unsaid(self.options())
    values = self.to_dict()
    own = values[self.method]
    values[self.method] = {k: v for k, v in own.items() if k not in options}
    return {
      name: value
      for name, value in values.items()
      if name not in free | unsaid
      and (name == self.method or not isinstance(value, dict))
    }

  def networks(self) -> tuple[client_types_lib.Network, ...]:
    """The networks that clients may have."""
    if self.client_types:
      types, _ = client_types_lib.parse_client_types(self.client_types)
      return tuple(dict.fromkeys(x.network for x in types))
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

  def __repr__(self) -> str:
    """Only what differs from the defaults."""
    defaults, names = Settings(), [f.name for f in dataclasses.fields(self)]
    changed = ", ".join(
      f"{name}={getattr(self, name)!r}"
      for name in names
      if getattr(self, name) != getattr(defaults, name)
    )
    return f"Settings({changed})"

  def _check(self) -> None:
    """Rules across groups."""
    check_batches(
      f"held_out_client_steps={self.held_out_client_steps}",
      self.held_out_client_steps,
      self.batch_size,
    )
    participation_lib.check_participation(
      self.clients,
      clients_per_round=self.clients_per_round,
      stragglers=self.stragglers,
      # Those of `epochs` depend on the data.
      steps=2 if self.epochs else self.steps,
    )
    if self.epochs_of != "average" and not self.epochs:
      raise ValueError(
        f"epochs_of={self.epochs_of!r}: must be 'average' with epochs=0, where "
        f"all clients take steps={self.steps}"
      )
    for field in ("learning_rate", "centers_learning_rate"):
      self._check_rates(field, getattr(self, field))
    robust_lib.check_aggregation(
      self.aggregation,
      client_state=self.client_state,
      clients=self.clients,
      clients_per_round=self.clients_per_round,
      byzantine=self.assumed_byzantine,
      kept=self.krum_clients,
    )
    byzantine.check_attack(self.byzantine_clients, self.clients)
    privacy_lib.check_privacy(
      dp_clip=self.dp_clip,
      dp_delta=self.dp_delta,
      clients=self.clients,
      participation=self.participation,
      # A method without this option has uniform weights.
      weighting=getattr(self.options(), "weighting", "uniform"),
      method=self.method,
      aggregation=self.aggregation,
      epochs=self.epochs,
    )

  def _check_rates(self, field: str, rates: tuple[float, ...]) -> None:
    """One step size, or one for each precision."""
    if len(rates) in (1, len(self.turns)):
      return
    each = f"bits={self.bits}"
    if self.client_types:
      each = f"client_types={self.client_types!r}"
    raise ValueError(
      f"{field}={rates}: must have one entry, or one for each of {each}"
    )


def _unsaid(values: Any) -> set[str]:
  """Later fields of a dataclass whose values are their defaults."""
  return {
    f.name
    for f in dataclasses.fields(values)
    if f.metadata.get("later") and getattr(values, f.name) == f.default
  }
