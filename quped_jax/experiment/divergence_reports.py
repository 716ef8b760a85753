"""What a run reports of clients that diverged, and when it ends for that."""

import math
import warnings
from collections.abc import Sequence

from quped_jax.experiment.settings import Settings
from quped_jax.simulation import divergence as divergence_lib
from quped_jax.simulation import processes
from quped_jax.simulation.divergence import IN_A_ROW, DivergenceReport
from quped_jax.simulation.layout import fetch
from quped_jax.simulation.state import SimulationState

# Step sizes of servers that take steps of their own, by their options.
_SERVER_RATES = (
  "server_learning_rate",
  "distill_learning_rate",
  "generator_learning_rate",
)
# Of some methods, under names that are no step sizes elsewhere.
_MORE_SERVER_RATES = {"pfedme": ("beta",)}
# Whose clients train a downloaded model beside their own.
_BESIDE = ("apfl", "ditto", "fedkd", "fml", "quped", "qupel")


class DivergenceError(RuntimeError):
  """Clients diverged, and the run was to end then, or no others are left.

  The message names clients, round, and what is most likely too large: a
  client's step size, or the server's. The last good state is saved if the run
  has a work directory.

  Examples:
    >>> settings = qj.Settings(on_divergence="raise")  # at the first client
    >>> issubclass(qj.DivergenceError, RuntimeError)
    True
  """


def check_divergence(
  settings: Settings,
  state: SimulationState,
  known: Sequence[DivergenceReport],
) -> list[DivergenceReport]:
  """Warns of clients that diverged since the last check, or ends the run.

  Args:
    settings: what is to happen when a client diverges.
    state: after the rounds that are done.
    known: what the last check returned.

  Returns:
    A report on each client that diverged so far.

  Raises:
    DivergenceError: the run ends; see there.
  """
  now = _reports(state)
  _check_server(settings, state)
  before = {x.client: x.undone for x in known}
  new = [x for x in now if x.undone > before.get(x.client, 0)]
  if not new:
    return now
  _check_clients(settings, state, new)
  # Warns once of each client; at the end the run says how often it diverged.
  first = [x.client for x in new if x.client not in before]
  if first:
    warnings.warn(
      f"round {int(state.round)}: {_names(first)} diverged and the round is "
      f"undone for them; {_advice(settings, state)}",
      stacklevel=3,
    )
  return now


def note(diverged: Sequence[DivergenceReport]) -> str:
  """How many rounds of which clients were undone, in words."""
  undone = sum(x.undone for x in diverged)
  text = (
    f"{_names([x.client for x in diverged])} diverged; {undone} of their "
    "rounds are undone"
  )
  often = [x.client for x in diverged if x.longest >= IN_A_ROW]
  if often:
    text += f", {IN_A_ROW} or more in a row of {_names(often)}"
  return text


def _reports(state: SimulationState) -> list[DivergenceReport]:
  """A report on each client that diverged so far."""
  if not int(state.monitor.undone):
    return []
  found = fetch((state.members, state.divergence))
  own = divergence_lib.divergence_reports(*found)
  # Each process has the records of its own clients.
  told = processes.exchange(own)
  return sorted(DivergenceReport(*x) for reports in told for x in reports)


def _server_rates(settings: Settings) -> str:
  """The step sizes of the method's server, as they are set; "" if none."""
  options = settings.options()
  return " and ".join(
    f"{settings.method}.{name}={getattr(options, name)}"
    for name in (*_SERVER_RATES, *_MORE_SERVER_RATES.get(settings.method, ()))
    if hasattr(options, name)
  )


def _advice(settings: Settings, state: SimulationState) -> str:
  """What is to blame: what clients report, or a step size, and whose."""
  if 0 < int(state.monitor.undone) == int(state.monitor.refused):
    return (
      "they send what is not believed: a weight that is not from 0 to their "
      "number of training samples, or a report that no honest client makes"
    )
  step, everyone = float(state.monitor.server_step), int(state.monitor.lost) > 0
  if (
    everyone
    and _server_rates(settings)
    and step > divergence_lib.LONG_SERVER_STEP
  ):
    times = f"{step:.2g}" if math.isfinite(step) else "over 1e19"
    return (
      f"before that a step of the server was {times} times as long as any "
      "message and as what it moved; "
      f"a smaller {_server_rates(settings)} may help"
    )
  if settings.method in _BESIDE:
    return (
      "a smaller learning_rate or shared_learning_rate may help "
      f"(learning_rate={settings.learning_rate}, shared_learning_rate="
      f"{settings.shared_learning_rate})"
    )
  return (
    f"a smaller learning_rate may help (learning_rate={settings.learning_rate})"
  )


def _check_server(settings: Settings, state: SimulationState) -> None:
  failed = int(state.monitor.failed)
  if failed >= 0:
    rates = _server_rates(settings)
    raise DivergenceError(
      f"round {1 + failed}: what the server made of the messages is not "
      "finite or has a negative variance; its state is left as it was before"
      + (f"; a smaller {rates} may help" if rates else "")
    )


def _check_clients(
  settings: Settings, state: SimulationState, new: Sequence[DivergenceReport]
) -> None:
  """Ends the run if it was to end, or if every client diverged for long."""
  round_, who = int(state.round), _names([x.client for x in new])
  advice = _advice(settings, state)
  if settings.on_divergence == "raise":
    raise DivergenceError(
      f"round {1 + min(x.last for x in new)}: {who} diverged, and "
      f"on_divergence='raise'; {advice}"
    )
  # Once true, both stay true: the outcome does not depend on when this is
  # checked, nor on checkpoints in between.
  in_all = round_ == settings.rounds and int(state.monitor.lost) >= round_
  if bool(state.monitor.over) or in_all:
    rounds = "all rounds" if in_all else f"{IN_A_ROW} rounds or more"
    raise DivergenceError(
      f"round {round_}: every client that took part diverged, {who}, in "
      f"{rounds} in a row; {advice}"
    )


def _names(clients: Sequence[int], most: int = 10) -> str:
  """The clients' numbers, in words."""
  numbers = ", ".join(map(str, clients[:most]))
  if len(clients) > most:
    numbers += f" and {len(clients) - most} more"
  return f"client{'s' * (len(clients) > 1)} {numbers}"
