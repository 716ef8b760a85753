"""A user's own loss and metrics: functions, which settings cannot hold."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data import targets
from quped_jax.data.federation import Federation
from quped_jax.experiment.settings import Settings
from quped_jax.methods.blocks import losses
from quped_jax.simulation import measures

# `(outputs [batch, width], targets [batch, ...]) -> [] or [batch, ...]`.
Loss = Callable[[Any, Any], Any]
# `(outputs [batch, width], targets [batch, ...]) -> [batch]`.
Metric = Callable[[Any, Any], Any]
# What users give as metrics: names and functions, or functions by name.
Metrics = Mapping[str, Metric] | Iterable[str | Metric] | str | Metric


class OwnFunctions(NamedTuple):
  """What a run is given beside its settings; nothing by default.

  Attributes:
    loss: in place of the one that the settings name; None for that.
    metrics: by name, beside those that the settings name; (name, function).
  """

  loss: Loss | None = None
  metrics: tuple[tuple[str, Metric], ...] = ()


NOTHING = OwnFunctions()


def read(
  settings: Settings, loss: str | Loss | None, metrics: Metrics
) -> tuple[Settings, OwnFunctions]:
  """Settings with the names that are given, and the functions.

  Args:
    settings: all settings.
    loss: the name of a loss, or a function; None for what the settings say.
    metrics: see `Metrics`, beside those that the settings name.

  Raises:
    ValueError: what is neither a name nor a function, or has the name of
      another.
  """
  checks.instance("settings", settings, Settings, "Settings.from_dict")
  names, own = _metrics(metrics)
  if names:
    all_names = tuple(dict.fromkeys((*settings.metrics, *names)))
    settings = dataclasses.replace(settings, metrics=all_names)
  if isinstance(loss, str):
    settings = dataclasses.replace(settings, loss=loss)
    loss = None
  if loss is None:
    return settings, OwnFunctions(None, own)
  if not callable(loss):
    raise ValueError(
      f"loss={checks.shown(loss)}: must be one of {', '.join(losses.TARGETS)}, "
      "or a function of outputs and targets"
    )
  return settings, OwnFunctions(loss, own)


def _metrics(given: Metrics) -> tuple[list[str], tuple[Any, ...]]:
  """The names among metrics, and the functions by name."""
  if isinstance(given, str) or not isinstance(given, Iterable):
    given = (given,)
  if isinstance(given, Mapping):
    pairs = list(given.items())
  else:
    pairs = [(None, x) for x in given]
  names, own = [], {}
  for name, metric in pairs:
    if name is None and isinstance(metric, str):
      names.append(metric)
      continue
    if not callable(metric):
      raise ValueError(
        f"metrics={checks.shown(metric)}: must be one of "
        f"{', '.join(measures.TARGETS)}, or a function of outputs and targets"
      )
    name = getattr(metric, "__name__", "") if name is None else name
    if not isinstance(name, str) or not name.isidentifier():
      raise ValueError(
        f"metrics: must be functions with names of letters, digits and _; got "
        f"{name!r}. Give it one by metrics={{NAME: function}}"
      )
    if name in own or name in measures.TARGETS:
      raise ValueError(f"metrics={name!r}: must be another name; it is taken")
    own[name] = metric
  return names, tuple(own.items())


def shapes(federation: Federation, batch: int) -> tuple[Any, Any]:
  """Shapes of outputs, float32 `[batch, width]`, and targets of a batch."""
  labels = jax.eval_shape(
    lambda x: x.client(0).batch(jnp.zeros(batch, jnp.int32)).labels, federation
  )
  width = federation.num_classes
  return jax.ShapeDtypeStruct((batch, width), jnp.float32), labels


def targets_of(federation: Federation) -> str:
  """The kind of the samples' targets, see `quped_jax.data.targets`."""
  return targets.kind_of(shapes(federation, 1)[1])


def settled(
  settings: Settings, own: OwnFunctions, federation: Federation
) -> Settings:
  """The settings, with a loss for the samples' targets where a function is one.

  What goes by the loss's name, such as the score, goes by the targets then.

  Raises:
    ValueError: a loss or a metric that is not for these targets, or a function
      that gives something else than it must.
  """
  # Not as many as outputs, so that the two axes are told apart.
  outputs, labels = shapes(federation, federation.num_classes + 1)
  kind = targets.kind_of(labels)
  if own.loss is not None:
    if settings.loss != Settings().loss or settings.label_smoothing:
      raise ValueError(
        f"loss={settings.loss!r}: must be left out of the settings, and "
        "label_smoothing be 0, beside a loss that is a function"
      )
    _check_loss(own.loss, outputs, labels)
    if losses.TARGETS[settings.loss] != kind:
      settings = dataclasses.replace(settings, loss=losses.of_targets(kind)[0])
  elif losses.TARGETS[settings.loss] != kind:
    raise ValueError(
      f"loss={settings.loss!r}: must be {' or '.join(losses.of_targets(kind))} "
      f"for {federation.name!r}, whose targets are {kind!r}"
    )
  _check_names(settings.metrics, federation, kind)
  for name, metric in own.metrics:
    _check_metric(name, metric, outputs, labels)
  return settings


def _check_names(
  names: Iterable[str], federation: Federation, kind: str
) -> None:
  for name in names:
    if kind not in measures.TARGETS[name]:
      allowed = [x for x, kinds in measures.TARGETS.items() if kind in kinds]
      raise ValueError(
        f"metrics={name!r}: must be one of {', '.join(allowed)} for "
        f"{federation.name!r}, whose targets are {kind!r}"
      )


def _check_loss(loss: Loss, outputs: Any, labels: Any) -> None:
  batch = outputs.shape[0]
  try:
    found = _traced("loss", loss, outputs, labels)
  except (TypeError, ValueError) as error:
    # Losses of distributions are the commonest mistake: optax has both kinds.
    if not _takes_distributions(loss, outputs, labels):
      raise
    raise ValueError(
      f"loss={getattr(loss, '__name__', loss)!s}: must take the numbers of "
      f"classes, {_shown(labels)}, beside outputs {_shown(outputs)}; it takes "
      "targets of the shape of outputs. Of optax that is "
      "softmax_cross_entropy_with_integer_labels"
    ) from error
  shape = getattr(found, "shape", None)
  if shape is None or shape[:1] not in ((), (batch,)) or not _is_real(found):
    raise ValueError(
      "loss: must return one real number, the mean over the batch, or numbers "
      f"[batch, ...], of which the mean is taken; got {_shown(found)} for a "
      f"batch of {batch}"
    )


def _takes_distributions(loss: Loss, outputs: Any, labels: Any) -> bool:
  """Whether a loss fails for classes, and not for a distribution over them."""
  if targets.kind_of(labels) != "classes":
    return False
  try:
    jax.eval_shape(loss, outputs, outputs)
  except Exception:  # Whatever a user's function raises.
    return False
  return True


def _check_metric(name: str, metric: Metric, outputs: Any, labels: Any) -> None:
  found = _traced(f"metrics[{name!r}]", metric, outputs, labels)
  batch = outputs.shape[0]
  if getattr(found, "shape", None) != (batch,) or not _is_real(found, "biuf"):
    raise ValueError(
      f"metrics[{name!r}]: must return one number for each sample, [batch]; "
      f"got {_shown(found)} for a batch of {batch}"
    )


def _is_real(found: Any, kinds: str = "f") -> bool:
  return jnp.issubdtype(found.dtype, jnp.floating) or found.dtype.kind in kinds


def _traced(field: str, fn: Callable[..., Any], outputs: Any, labels: Any):
  """The shape of what a function returns."""
  try:
    return jax.eval_shape(fn, outputs, labels)
  except Exception as error:  # Whatever a user's function raises.
    error.add_note(
      f"{field}: was called with outputs {_shown(outputs)} and targets "
      f"{_shown(labels)}"
    )
    raise


def _shown(found: Any) -> str:
  if hasattr(found, "shape"):
    return f"{found.dtype} {list(found.shape)}"
  return type(found).__name__


def mean_loss(loss: Loss) -> Loss:
  """The loss as methods call it: `(outputs, targets) -> scalar`."""

  @functools.wraps(loss, assigned=())
  def mean(outputs, targets):
    found = loss(outputs, targets)
    return jnp.mean(found) if jnp.ndim(found) else found

  return mean
