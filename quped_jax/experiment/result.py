"""What a run gives back."""

from __future__ import annotations

from typing import Any, NamedTuple

from quped_jax.experiment import summary as summary_lib
from quped_jax.simulation.simulation import Simulation
from quped_jax.simulation.state import SimulationState


class Result(NamedTuple):
  """The result of a run.

  Attributes:
    summary: what `summary.json` holds.
    clients: a row per client, what `clients.csv` holds, with lists for JSON.
    history: a record per evaluated round, what `metrics.jsonl` holds.
    figure_records: what figures need beside these, what `figures.jsonl` holds.
    state: the SimulationState after the last round.
    simulation: the programs that computed it.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> result = qj.run(settings, display=qj.Display(quiet=True))
    >>> 0 <= result.summary["accuracy"]["personalized"]["mean"] <= 1
    True
    >>> [row["client"] for row in result.clients]
    [0, 1, 2, 3]
    >>> result.history[0]["round"]
    1
  """

  summary: dict[str, Any]
  clients: list[dict[str, Any]]
  history: list[dict[str, Any]]
  figure_records: list[dict[str, Any]]
  state: SimulationState
  simulation: Simulation

  def __repr__(self) -> str:
    fields = ", ".join(self._fields)
    return f"Result({summary_lib.in_a_line(self.summary)}; fields: {fields})"
