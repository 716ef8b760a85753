"""Settings of the training: the method, and what a round is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from quped_jax import checks, methods
from quped_jax.data.federation import check_batches
from quped_jax.experiment.settings import values as values_lib
from quped_jax.experiment.settings.fields import (
  at_least,
  converted,
  each,
  group,
  one_of,
  setting,
)
from quped_jax.experiment.settings.named_options import NamedOptions
from quped_jax.methods.blocks import losses
from quped_jax.simulation import measures

BUDGETS = ("steps", "gradients")


def _method(field: str, value: str) -> None:
  del field  # The only one.
  methods.get_method(value)


def _options(field: str, value: Mapping[str, Any]) -> None:
  unknown = set(value) - set(methods.METHODS)
  if unknown:
    raise ValueError(
      f"{field}={sorted(unknown, key=str)}: must be names of methods, "
      f"{', '.join(sorted(methods.METHODS))}"
    )


def _different(field: str, value: tuple[str, ...]) -> None:
  if len(set(value)) < len(value):
    raise ValueError(f"{field}={value}: must be different ones")


@group
class TrainingSettings(NamedOptions):
  """The method, how long it trains, and when it is evaluated."""

  method: str = setting("quped", "name of a federated method.", _method)
  method_options: Mapping[str, Any] = setting(
    {},
    "options of methods, by the method's name; see there. "
    "`Settings(quped={...})` does the same for one of them.",
    _options,
  )
  seed: int = setting(
    0,
    "of the partition, the initial weights and the batches.",
    at_least(0),
    data=True,
  )
  rounds: int = setting(40, "number of rounds.", at_least(1), data=True)
  steps: int = setting(
    40, "local steps of a client per round, one batch each.", at_least(1)
  )
  epochs: int = setting(
    0,
    "if positive, so many epochs instead of `steps`; of whose samples, "
    "`epochs_of` says.",
    at_least(0),
  )
  budget: str = setting(
    "steps",
    "what `steps` counts: 'steps', the same for every method; or 'gradients', "
    "those of local training, of which another method takes as many as make no "
    "more gradient evaluations (one at least).",
    one_of(BUDGETS),
  )
  batch_size: int = setting(16, "samples per step.", at_least(1))
  loss: str = setting(
    "cross_entropy",
    "what training minimises: of classes, 'cross_entropy' or 'focal'; of real "
    "numbers, 'squared_error'; of several labels at once, 'binary'.",
    one_of(losses.TARGETS),
    later=True,
  )
  label_smoothing: float = setting(
    0.0,
    "of 'cross_entropy', the share of a label that all classes have in common.",
    checks.unit_interval,
    traced=True,
    off_at_zero=True,
    later=True,
  )
  focal_gamma: float = setting(
    2.0,
    "of 'focal': the larger, the less samples count that are classified well.",
    checks.not_negative,
    traced=True,
    later=True,
  )
  metrics: tuple[str, ...] = converted(
    default=(),
    doc="what is measured beside the score, of each client's test samples and "
    "of all together: 'loss'; of classes 'accuracy' and 'macro_f1'; of several "
    "labels at once 'label_accuracy' and 'macro_f1'; of real numbers 'mae' and "
    "'mse'.",
    rules=(each(one_of(measures.TARGETS)), _different),
    converter=values_lib.names,
    later=True,
  )
  eval_every: int = setting(
    1,
    "rounds between evaluations; the last is always evaluated.",
    at_least(1),
    data=True,
  )
  recalibration_batches: int = setting(
    10,
    "on how many batches batch-norm statistics of a quantized model are "
    "estimated again before it is evaluated.",
    at_least(0),
  )
  finetune_at: int = setting(
    0,
    "round with which the fine-tuning phase begins, in which the assignment of "
    "weights to levels is frozen; 0 for never.",
    at_least(0),
  )

  @classmethod
  def _gather(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A method's name takes its options: they go into `method_options`."""
    options = values.get("method_options", {})
    named = {name: values[name] for name in values if name in methods.METHODS}
    if named and isinstance(options, Mapping):
      merged = {name: _merged(options.get(name), named[name]) for name in named}
      values = {**values, "method_options": {**options, **merged}}
    return super()._gather({k: v for k, v in values.items() if k not in named})

  def options(self) -> Any:
    """The options of the method that is run, as its own dataclass."""
    return self._all_options()[self.method]

  def _all_options(self) -> dict[str, Any]:
    """The options of every method, those that are not given by default."""
    return {
      name: _make_options(
        name, entry.options, self.method_options.get(name, {})
      )
      for name, entry in methods.METHODS.items()
    }

  def _normalize_options(self) -> None:
    """Checks all options, and keeps those given in their normal form."""
    made = self._all_options()
    normal = {
      name: {option: getattr(made[name], option) for option in given}
      for name, given in self.method_options.items()
    }
    object.__setattr__(self, "method_options", values_lib.FrozenMapping(normal))

  def _check(self) -> None:
    self._normalize_options()
    for field in ("steps", "recalibration_batches"):
      count = getattr(self, field)
      check_batches(f"{field}={count}", count, self.batch_size)
    if self.label_smoothing and self.loss != "cross_entropy":
      raise ValueError(
        f"label_smoothing={self.label_smoothing}: must be 0 with loss="
        f"{self.loss!r}, as it is for 'cross_entropy' alone"
      )
    if self.finetune_at >= self.rounds:
      raise ValueError(
        f"finetune_at={self.finetune_at}: must be less than rounds="
        f"{self.rounds}, or 0 for no fine-tuning phase"
      )


def _merged(given: Any, named: Any) -> Any:
  """Options given twice: of those with the same name, the second counts."""
  if isinstance(given, Mapping) and isinstance(named, Mapping):
    return {**given, **named}
  return named


def _make_options(name: str, kind: type, given: Any) -> Any:
  """A method's options from a mapping, each checked as settings are."""
  if not isinstance(given, Mapping):
    raise ValueError(
      f"{name}={checks.shown(given)}: must be a mapping of options"
    )
  # JSON has no tuples.
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
  allowed = {field.name for field in dataclasses.fields(kind)}
  for field, value in given.items():
    if field not in allowed:
      raise ValueError(
        f"{name}.{field}={checks.shown(value)}: no such option; must be "
        f"one of {', '.join(sorted(allowed)) or '(none)'}"
        f"{checks.did_you_mean(field, allowed)}"
      )
  return kind(**values_lib.typed(dataclasses.fields(kind), given, f"{name}."))
