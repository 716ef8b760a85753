"""What a run measures of models beside their score, from settings."""

from quped_jax.experiment.own_functions import OwnFunctions
from quped_jax.experiment.settings import Settings, swept
from quped_jax.experiment.training import chosen_losses
from quped_jax.methods.blocks import losses
from quped_jax.simulation.measures import OfValues, make_measures


def build_measures(settings: Settings, own: OwnFunctions) -> OfValues | None:
  """What is measured, given the values of settings; None for nothing.

  Args:
    settings: all settings, with a loss for the samples' targets.
    own: a user's own loss and metrics.
  """
  if not settings.metrics and not own.metrics:
    return None

  def of_values(values):
    given, _ = swept.with_values(settings, values)
    return make_measures(
      settings.metrics,
      chosen_losses(given, own.loss).loss,
      dict(own.metrics),
      losses.TARGETS[settings.loss],
    )

  return of_values
