"""How many rounds go in one dispatch, and after which round something happens.

It follows from settings and networks alone, never from elapsed time: a run that
is repeated runs the same programs.
"""

import jax

from quped_jax.experiment.assemble import Assembly, batch_shape
from quped_jax.experiment.settings import Settings

# Floating-point operations in one dispatch, at most, counted as plain SGD's
# network passes, of which QuPeD with levels takes about ten times as many:
# seconds on two CPU cores, after which progress is shown and a run can stop.
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
      lambda params, stats, x: model.apply(params, stats, x, True)
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
    done: how many rounds are done.
    at_once: how many rounds go in one dispatch at most.
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
