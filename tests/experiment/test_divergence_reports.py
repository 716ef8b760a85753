"""What a run reports of clients that diverged; runs are in test_run.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import divergence_reports
from quped_jax.simulation import divergence, processes
from quped_jax.simulation.divergence import DivergenceReport
from quped_jax.simulation.state import SimulationState


def report(client, undone, longest):
  return DivergenceReport(
    client=client, undone=undone, streak=longest, longest=longest, last=undone
  )


def test_a_note_counts_rounds_and_names_who_diverged_often():
  assert divergence_reports.note([report(4, 2, 1)]) == (
    "client 4 diverged; 2 of their rounds are undone"
  )
  assert divergence_reports.note([report(4, 2, 1), report(7, 5, 3)]) == (
    "clients 4, 7 diverged; 7 of their rounds are undone, 3 or more in a row "
    "of client 7"
  )


def test_of_many_clients_a_note_names_the_first():
  text = divergence_reports.note([report(i, 1, 1) for i in range(12)])
  assert text.startswith("clients 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more div")


def diverged(*members):
  """A state after 9 rounds, with clients of which the last two diverged."""
  records = divergence.new_records(3)
  records = records._replace(undone=jnp.array([0, 4, 5]))
  monitor = divergence.new_monitor(True)._replace(undone=jnp.int32(8))
  some: Any = {"some": np.array(members)}
  return SimulationState(
    {}, {}, some, jnp.int32(9), jax.random.key(0), {"some": records}, monitor
  )


def test_every_process_reports_the_clients_of_all(monkeypatch):
  others = [list(report(1, 2, 1)), list(report(9, 1, 1))]
  monkeypatch.setattr(processes, "exchange", lambda own: [others, own])
  state = diverged(2, 7, -1)
  with pytest.warns(UserWarning, match="clients 1, 7, 9 diverged"):
    found = divergence_reports.check_divergence(qj.Settings(), state, [])
  assert [(x.client, x.undone) for x in found] == [(1, 2), (7, 4), (9, 1)]


@pytest.mark.parametrize(
  ("method", "advice"),
  [
    ("local", r"a smaller learning_rate may help \(learning_rate=\(0.2,\)\)"),
    # A model that a client trains beside its own may have diverged.
    (
      "quped",
      r"a smaller learning_rate or shared_learning_rate may help "
      r"\(learning_rate=\(0.2,\), shared_learning_rate=0.7\)",
    ),
  ],
)
def test_the_step_sizes_that_may_be_too_large_are_named(method, advice):
  settings = qj.Settings(
    method=method, learning_rate=0.2, shared_learning_rate=0.7
  )
  with pytest.warns(UserWarning, match=advice):
    divergence_reports.check_divergence(settings, diverged(0, 1, 2), [])
