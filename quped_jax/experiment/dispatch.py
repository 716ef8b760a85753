"""How many rounds go in one dispatch, and after which round something happens.

Both follow from settings and networks alone, never from elapsed time, so that a
repeated run runs the same programs.
"""

import jax

from quped_jax.experiment.assemble import Assembly, batch_shape
from quped_jax.experiment.settings import Settings
from quped_jax.models import example_pass

# The most floating-point operations in one dispatch, counted as if clients ran
# plain SGD (QuPeD with levels takes about ten times as many). They take seconds
# on two CPU cores; after a dispatch progress is shown, and a run can stop.
_WORK_PER_DISPATCH = 2e10
_MOST_ROUNDS = 1000


def rounds_at_once(made: Assembly) -> int:
  """How many rounds go in one dispatch where nothing happens between them."""
  settings = made.settings
  if settings.rounds_per_dispatch:
    return settings.rounds_per_dispatch
  inputs = batch_shape(settings, made.federation)

  def forward_cost(model):
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    forward = jax.jit(
      lambda params, stats, x: example_pass(model, params, stats, x)
    )
    cost = forward.lower(*variables, inputs).cost_analysis() or {}
    return cost.get("flops", 0.0)

  most = max(forward_cost(model) for model in made.models.clients.values())
  passes = (settings.clients_per_round or settings.clients) * settings.steps * 3
  work = max(most * passes, 1.0)
  return int(min(max(_WORK_PER_DISPATCH // work, 1), _MOST_ROUNDS))


def next_stop(settings: Settings, done: int, at_once: int) -> int:
  """The round after which something happens, or the dispatch is full.

  Args:
    settings: when there are evaluations, checkpoints and fine-tuning.
    done: number of rounds that are done.
    at_once: the most rounds in one dispatch.
  """
  stops = [
    settings.rounds,
    done + at_once,
    (done // settings.eval_every + 1) * settings.eval_every,
  ]
  if settings.finetune_at > done:
    stops.append(settings.finetune_at)
  if settings.checkpoint_every:
    every = settings.checkpoint_every
    stops.append((done // every + 1) * every)
  return min(stops)
