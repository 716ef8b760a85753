"""How clients train and how rates change, from settings."""

import dataclasses
from collections.abc import Sequence

import optax

from quped_jax.experiment.own_functions import Loss, mean_loss
from quped_jax.experiment.settings import Settings
from quped_jax.methods.blocks import losses
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import (
  levels_in_use,
  optimizers,
  training_steps,
  transforms,
)
from quped_jax.quantization.alternating import Alternating
from quped_jax.simulation.schedule import Schedule


def make_schedule(settings: Settings) -> Schedule:
  """How the rates change over the rounds."""
  names = [field.name for field in dataclasses.fields(Schedule)]
  return Schedule(**{name: getattr(settings, name) for name in names})


def make_training(
  settings: Settings,
  bits: Sequence[int] | None = None,
  most_levels: int | None = None,
  loss: Loss | None = None,
  uneven: bool = False,
) -> Training:
  """How clients train.

  Args:
    settings: all settings, with `steps` as they are.
    bits: precisions of all clients, if not those that the settings name.
    most_levels: how many levels the clients that train have at most, if not all
      of them do.
    loss: a user's own; None for the one that the settings name.
    uneven: whether clients take steps of their own, `steps` at most.
  """
  bits = settings.turns if bits is None else bits
  quantized = min(bits) < codebook_lib.FULL_PRECISION
  chosen = chosen_losses(settings, loss)
  return Training(
    steps=settings.steps,
    batch_size=settings.batch_size,
    alternating=_alternating(
      settings,
      most=most_levels,
      mixed=most_levels is None and levels_in_use.are_mixed(bits),
    ),
    shared_optimizer=_optimizer(settings, settings.shared_optimizer),
    max_levels=codebook_lib.max_levels_for(bits) if quantized else None,
    granularity=settings.granularity,
    outer_level=settings.outer_level or None,
    initial_levels=settings.rule_of_levels,
    recalibration_batches=settings.recalibration_batches,
    loss=chosen.loss,
    divergence=chosen.divergence,
    classes=chosen.classes,
    smoothed=chosen.smoothed,
    momentum=_momentum(settings),
    uneven=uneven,
  )


def chosen_losses(settings: Settings, loss: Loss | None) -> losses.Losses:
  """What clients minimise.

  Args:
    settings: all settings.
    loss: a user's own; None for the one that the settings name.
  """
  return losses.make_losses(
    settings.loss,
    label_smoothing=settings.label_smoothing,
    focal_gamma=settings.focal_gamma,
    own=None if loss is None else mean_loss(loss),
  )


def _momentum(settings: Settings) -> float | None:
  """See `Training.momentum`."""
  if settings.weight_clip:
    return None
  return {"sgd": 0.0, "momentum": settings.momentum}.get(settings.optimizer)


def _alternating(
  settings: Settings, most: int | None, mixed: bool
) -> Alternating:
  """The step for weights and levels."""
  weights = [_optimizer(settings, settings.optimizer)]
  if settings.weight_clip:
    weights.append(transforms.keep_params_in_box(settings.weight_clip))
  centers = optax.chain(
    optax.clip(settings.centers_clip),
    optimizers.base_optimizer(
      settings.centers_optimizer, momentum=settings.momentum
    ),
  )
  return training_steps.make_alternating(
    optax.chain(*weights),
    centers,
    estimator=settings.estimator,
    levels=settings.rule_of_levels,
    annealing=settings.annealing,
    sharpness=settings.sharpness,
    sharpness_unit=settings.sharpness_unit,
    norm=settings.norm,
    center_prox=settings.center_prox,
    deterministic=settings.deterministic,
    most=most,
    mixed=mixed,
  )


def _optimizer(settings: Settings, name: str):
  """Of weights: with weight decay, which levels do without."""
  return optimizers.base_optimizer(
    name, momentum=settings.momentum, weight_decay=settings.weight_decay
  )
