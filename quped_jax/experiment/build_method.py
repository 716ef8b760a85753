"""Third step of assembly, the method: training, budget, and wrappers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import methods
from quped_jax.data.federation import Federation, check_batches
from quped_jax.experiment.own_functions import Loss
from quped_jax.experiment.settings import Settings, swept
from quped_jax.experiment.training import make_schedule, make_training
from quped_jax.methods import api
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.wrappers import byzantine, compress
from quped_jax.methods.wrappers import privacy as privacy_lib
from quped_jax.methods.wrappers import robust as robust_lib
from quped_jax.quantization import codebook_tree
from quped_jax.simulation.schedule import Schedule


class BuiltMethod(NamedTuple):
  """The method that clients and server run.

  Attributes:
    method: the method, with its wrappers.
    training: how clients train.
    settings: all settings, with `steps` as they follow from epochs and budget.
    own_steps: how many of them each client takes, `[clients]`; None if each
      takes all.
    of_values: `(values, most levels) -> Made`, all of this with other values
      of the settings, see `swept`, which may be traced; for clients that have
      no more levels than that, or for all if it is None.
  """

  method: api.FederatedMethod
  training: Training
  settings: Settings
  own_steps: np.ndarray | None
  of_values: Callable[[Mapping[str, Any], int | None], "Made"]

  def for_levels(self, most: int) -> api.FederatedMethod:
    """The method for clients that have no more levels than that."""
    return self.of_values({}, most).method


class Made(NamedTuple):
  """What of a run's programs follows from the values of settings.

  Attributes:
    method: the method, with its wrappers.
    training: how clients train.
    schedule: of the rates.
  """

  method: api.FederatedMethod
  training: Training
  schedule: Schedule

  @property
  def engine(self) -> tuple[api.FederatedMethod, Schedule]:
    """What an engine needs of it."""
    return self.method, self.schedule


def build_method(
  settings: Settings,
  federation: Federation,
  models: api.Models,
  bits: Sequence[int] | None = None,
  *,
  assigned: Sequence[int] | None = None,
  loss: Loss | None = None,
) -> BuiltMethod:
  """Makes the method that the settings name, for clients that train.

  Args:
    settings: the method, its options, and how clients train.
    federation: of the clients that train.
    models: the networks, by cohort.
    bits: precisions of all clients, if not those that the settings name.
    assigned: the precision of each client; those of the settings in turn, if
      not given.
    loss: a user's own; None for the one that the settings name.

  Raises:
    ValueError: settings that do not fit the method or each other.
  """
  _check_statistics(settings, federation, models)
  settings, own_steps = _with_epochs(settings, federation)
  uneven = own_steps is not None
  entry = methods.get_method(settings.method)

  def make(settings: Settings, options: Any, most_levels: int | None = None):
    training = make_training(settings, bits, most_levels, loss, uneven)
    return entry.build(models, training, options, federation), training

  def gradients(steps: int) -> float:
    tried = dataclasses.replace(settings, steps=steps)
    return _gradients(settings, make(tried, settings.options())[0])

  steps = settings.steps
  if settings.budget == "gradients" and steps > 1:
    each = make_training(settings, bits).gradients_per_step
    if own_steps is None:
      steps = affordable_steps(gradients, steps, steps * each)
    else:
      by_steps = _line(gradients, steps)
      own_steps = np.array(
        [affordable_steps(by_steps, n, n * each) for n in own_steps.tolist()]
      )
      steps = int(own_steps.max())
  settings = _with_steps(settings, steps, f"budget={settings.budget!r}")
  method, training = make(settings, settings.options())
  if own_steps is not None and method.gradients is not None:
    mean = _line(gradients, steps)(float(own_steps.mean()))
    method = method.replace(gradients=mean)
  if settings.finetune_at and method.begin_finetune is None:
    raise ValueError(
      f"finetune_at={settings.finetune_at}: must be 0 with "
      f"method={settings.method!r}, which has no fine-tuning phase"
    )
  if assigned is None:
    turns = settings.turns
    assigned = [turns[i % len(turns)] for i in range(settings.clients)]
  wrapped = functools.partial(
    _wrapped, settings, expected=_expected(settings, assigned)
  )

  def of_values(values: Mapping[str, Any], most_levels: int | None) -> Made:
    given, options = swept.with_values(settings, values)
    method, training = make(given, options, most_levels)
    return Made(wrapped(given, method), training, make_schedule(given))

  return BuiltMethod(
    wrapped(settings, method), training, settings, own_steps, of_values
  )


def build_guarantee(settings: Settings) -> dict[str, Any] | None:
  """The privacy of the model that clients train together; None for none.

  It follows from the settings alone, and is part of `summary.json`.

  Raises:
    ImportError: what is needed to compute it is not installed.
  """
  return privacy_lib.guarantee(
    dp_clip=settings.dp_clip,
    dp_noise=settings.dp_noise,
    dp_delta=settings.dp_delta,
    clients=settings.clients,
    participation=settings.participation,
    rounds=settings.rounds,
  )


def affordable_steps(
  gradients: Callable[[int], float], steps: int, allowed: float
) -> int:
  """The largest number of local steps whose gradients are allowed.

  Args:
    gradients: `local steps -> gradient evaluations of a round`. They grow
      linearly with the steps; what a round takes in addition, if anything, does
      not depend on them.
    steps: the largest number of steps to consider, at least 2.
    allowed: gradient evaluations that a round may take.

  Returns:
    A number from 1 to `steps`; 1 even where that is not allowed.
  """
  most = gradients(steps)
  if most <= allowed:
    return steps
  # Not those of 1 step, which some methods do not run with.
  each = most - gradients(steps - 1)
  if not each:
    return 1
  return max(steps - math.ceil((most - allowed) / each), 1)


def _line(
  gradients: Callable[[int], float], steps: int
) -> Callable[[float], float]:
  """Gradients of any number of local steps, with which they grow linearly."""
  some, more = gradients(steps), gradients(steps + 1)
  return lambda n: some + (n - steps) * (more - some)


def _gradients(settings: Settings, method: api.FederatedMethod) -> float:
  """Gradient evaluations in a round, for a budget of them."""
  if method.gradients is None:
    raise ValueError(
      f"budget={settings.budget!r}: must be 'steps' with "
      f"method={settings.method!r}, which does not say how many gradients it "
      "takes"
    )
  return method.gradients


def _with_epochs(
  settings: Settings, federation: Federation
) -> tuple[Settings, np.ndarray | None]:
  """The local steps that `epochs` amount to.

  Returns:
    The settings, whose `steps` are the most of any client; and those of each
    client, `[clients]`, or None if all take as many.
  """
  if not settings.epochs:
    return settings, None
  counts = np.asarray(federation.train.count, np.int64)
  if settings.epochs_of == "average":
    counts = np.mean(counts, keepdims=True).astype(np.int64)
  own = settings.epochs * np.maximum(counts // settings.batch_size, 1)
  most = _with_steps(settings, int(own.max()), f"epochs={settings.epochs}")
  return most, own if settings.epochs_of == "each" else None


def _with_steps(settings: Settings, steps: int, why: str) -> Settings:
  """The settings with this number of local steps.

  Args:
    settings: all settings.
    steps: number of local steps.
    why: the setting that it follows from, for errors.
  """
  check_batches(why, steps, settings.batch_size)
  if steps < 2 and settings.stragglers:
    raise ValueError(
      f"stragglers={settings.stragglers}: must be 0 where {why} leaves 1 local "
      "step, of which nobody can take fewer"
    )
  return dataclasses.replace(
    settings, steps=steps, epochs=0, epochs_of="average"
  )


def _check_statistics(
  settings: Settings, federation: Federation, models: api.Models
) -> None:
  """With privacy, noise can be added to all statistics."""
  if not settings.dp_clip:
    return
  for model in (models.shared, *models.clients.values()):
    _, stats = jax.eval_shape(
      model.init, jax.random.key(0), federation.example()
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(stats)[0]:
      if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
          f"dp_clip={settings.dp_clip!r}: must be 0 with model={model.name!r}, "
          f"whose statistic {codebook_tree.path_name(path)!r} is of type "
          f"{leaf.dtype}, to which no noise can be added"
        )


def _expected(settings: Settings, assigned: Sequence[int]) -> dict[int, float]:
  """Expected numbers of clients of each precision; {} without privacy."""
  if not settings.dp_clip:
    return {}
  chances = privacy_lib.chances(settings.participation, settings.clients)
  return privacy_lib.expected_by_precision(chances, assigned)


def _wrapped(
  settings: Settings,
  given: Settings,
  method: api.FederatedMethod,
  expected: Mapping[int, float],
) -> api.FederatedMethod:
  """The method with Byzantine clients, an average or privacy, and compression.

  With none of them it is the method itself.

  Args:
    settings: say which.
    given: the settings, maybe with tracers in place of numbers.
    method: what is wrapped.
    expected: see `with_privacy`.
  """
  robust_lib.check_robust(method, settings.method, settings.aggregation)
  compress.check_compressible(method, settings.method, settings.compression)
  if settings.dp_clip:
    robust_lib.check_averages(
      method, settings.method, f"dp_clip={settings.dp_clip!r}", "0"
    )
  if settings.byzantine_clients:
    method = byzantine.with_byzantine_clients(
      method,
      settings.clients - settings.byzantine_clients,
      settings.attack,
      given.attack_scale,
    )
  if settings.dp_clip:
    method = privacy_lib.with_privacy(
      method,
      bound=given.dp_clip,
      noise=given.dp_noise,
      expected=expected,
    )
  method = robust_lib.with_aggregation(
    method,
    settings.aggregation,
    trim=settings.trim,
    clip_norm=given.clip_norm,
    byzantine=settings.assumed_byzantine,
    kept=settings.krum_clients,
  )
  if settings.compression == "none":
    return method
  compression = compress.make_compressor(
    settings.compression,
    bits=settings.compression_bits,
    norm=settings.compression_norm,
    share=settings.compression_share,
  )
  return compress.with_compression(
    method,
    compression,
    error_feedback=compress.feeds_back(
      settings.compression, settings.error_feedback
    ),
  )
