"""What a run does where memory has no room for as many clients at once."""

from collections.abc import Callable
from typing import Any

import jax

from quped_jax.experiment.assemble import Assembly
from quped_jax.simulation.state import SimulationState

# Of errors of XLA, when it compiles or runs what takes too much memory.
_NO_ROOM = "RESOURCE_EXHAUSTED"


def is_meant(error: BaseException) -> bool:
  """Whether an error says that memory has no room."""
  return _NO_ROOM in str(error)


def halve(
  error: Exception, made: Assembly, given: SimulationState | None
) -> Callable[[], Assembly]:
  """How to make the run with half as many clients at once.

  Args:
    error: that ended its rounds.
    made: the run.
    given: the state that a user gave it to go on from, if any.

  Raises:
    Exception: the error itself, if it is another, if it is not ours to choose
      how many run at once, if one does, or if the state that was given is gone.
      With several processes too, whose devices fail one by one.
  """
  if not is_meant(error) or jax.process_count() > 1:
    raise error
  if made.halved is None:
    error.add_note(
      "strategy='auto', a smaller batch_size or client_state='host' take less "
      "memory"
    )
    raise error
  if _is_gone(given):
    error.add_note(
      "the state that was given has been taken over; with "
      "strategy='chunks' and chunk_size="
      f"{made.simulation.layout.halved().chunk_size} it takes less memory"
    )
    raise error
  return made.halved


def _is_gone(state: Any) -> bool:
  """Whether programs may have taken over buffers, or arrays of the host."""
  return any(
    not isinstance(x, jax.Array) or x.is_deleted()
    for x in jax.tree.leaves(state)
  )


def note(made: Assembly) -> str:
  """What is done about it, in words.

  Args:
    made: the run with fewer clients at once.
  """
  layout = made.simulation.layout
  return (
    f"{layout.why}: goes on with {layout.chunk_size}, from where it began or "
    "its last checkpoint"
  )
