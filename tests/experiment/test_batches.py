"""Runs at once, as many as memory has room for."""

import jax
import pytest

from quped_jax.simulation import run_axis, sizes
from tests.experiment.test_sweep import BASE, close, compiled, quietly
from tests.experiment.test_telling import Notes
from tests.experiment.test_together import (
  at_once,
  check_as_one_after_the_other,
)

__all__ = ["compiled"]  # A fixture.


@pytest.mark.slow
def test_runs_that_stop_after_other_rounds_go_in_turn(compiled, tmp_path):
  over = {"rounds": (1, 2), "seed": (0, 1)}
  check_as_one_after_the_other(BASE, over, tmp_path)
  rounds = [x for x in compiled if x.memory == max(y.memory for y in compiled)]
  assert len(rounds) == 1


@pytest.mark.slow
def test_runs_go_in_parts_where_memory_has_no_room(monkeypatch, tmp_path):
  sizes_made = []
  make = run_axis.RunAxis.__init__

  def count(self, backend, runs, common=()):
    sizes_made.append(runs)
    make(self, backend, runs, common)

  monkeypatch.setattr(run_axis.RunAxis, "__init__", count)
  whole = at_once(BASE, {"seed": range(5)}, tmp_path / "whole")
  (one,) = quietly(BASE, {"seed": (0,)})
  first, all_five = (
    run.summary["memory"]["estimated_round_bytes"]
    for run in (one, whole[0])
    if run.summary
  )
  # Tables of one run alone are shorter.
  room_for_three = first + 5 * (all_five - first) // 8
  monkeypatch.setattr(sizes, "memory_limit", lambda: room_for_three)
  parts = at_once(BASE, {"seed": range(5)}, tmp_path / "parts")
  assert sizes_made == [5, 3]
  for a, b in zip(parts, whole, strict=True):
    assert close(a.history, b.history)


@pytest.mark.slow
def test_fewer_go_at_once_when_memory_is_full_after_all(monkeypatch):
  """They go on from where they began; results are the same."""
  expected = at_once(BASE, {"seed": range(4)})
  run = run_axis.RunAxis.run_rounds
  failed = []

  def full(self, *args):
    if self.runs > 2:
      failed.append(self.runs)
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
    return run(self, *args)

  monkeypatch.setattr(run_axis.RunAxis, "run_rounds", full)
  told = []

  def callbacks(_):
    told.append(Notes())
    return told[-1:]

  found = at_once(BASE, {"seed": range(4)}, callbacks=callbacks)
  assert failed == [4]
  # Nothing of it is told, but that rounds are begun once more.
  events = ["begin", "rounds", "rounds", "evaluation", "rounds", "evaluation"]
  for notes in told:
    found_events = [name for name, _ in notes.told if name != "note"]
    assert found_events == [*events, "end"]
  for a, b in zip(found, expected, strict=True):
    assert close(a.history, b.history)

  def never(self, *args):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

  monkeypatch.setattr(run_axis.RunAxis, "run_rounds", never)
  alone = at_once(BASE, {"seed": range(2)})
  for a, b in zip(alone, expected, strict=False):
    assert close(a.history, b.history)
