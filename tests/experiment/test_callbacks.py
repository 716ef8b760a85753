"""Callbacks of whole runs, one or many."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import pytest

import quped_jax as qj
from tests.experiment.test_sweep import BASE, compiled
from tests.experiment.test_telling import Notes
from tests.simulation.commands import ROOT, finish, free_port

__all__ = ["compiled"]  # A fixture.

QUIET = qj.Display(quiet=True)
SETTINGS = dataclasses.replace(BASE, rounds=4, eval_every=2)


class Evaluations(Notes):
  """Records what evaluations are, too."""

  def __init__(self):
    super().__init__()
    self.found = []

  def on_begin(self, start):
    super().on_begin(start)
    self.start = start

  def on_evaluation(self, evaluation):
    self.found.append(evaluation)
    super().on_evaluation(evaluation)


def run(callbacks, workdir=None, settings=SETTINGS):
  return qj.run(settings, workdir, callbacks=callbacks, display=QUIET)


def test_a_run_tells_its_callbacks_what_it_is_and_finds(tmp_path, compiled):
  """Its callbacks add no program, and no dispatch."""
  notes = Evaluations()
  result = run([notes], tmp_path)
  assert len(compiled) == 3
  start = notes.start
  assert start.settings == SETTINGS and start.workdir == tmp_path
  assert (start.round, start.history) == (0, ())
  assert (start.dataset, start.model) == ("digits", "mlp")
  assert start.primary_variant == result.simulation.primary_variant
  assert [x for x in notes.told if x[0] != "note"] == [
    ("begin", 0),
    ("rounds", (1, 2)), ("evaluation", 2),
    ("rounds", (3, 4)), ("evaluation", 4),
    ("end", "finished"),
  ]  # fmt: skip
  assert [x.metrics for x in notes.found] == result.history
  assert all(type(x) in (int, float) for x in notes.found[0].metrics.values())
  assert all(x.seconds_per_round > 0 for x in notes.found)
  assert notes.end.summary == result.summary
  assert json.loads((tmp_path / "summary.json").read_text())["rounds"] == 4


@pytest.mark.slow
def test_the_bytes_of_all_clients_are_summed_over_rounds():
  notes = Evaluations()
  settings = dataclasses.replace(
    SETTINGS, method="fedavg", rounds=3, eval_every=1, clients_per_round=2
  )
  result = run([notes], settings=settings)
  each = result.summary["bytes_up"]
  assert [x.bytes_up for x in notes.found] == [2 * each, 4 * each, 6 * each]


class Fails(qj.Callback):
  """Raises an error after the first evaluation."""

  def on_evaluation(self, evaluation):
    raise RuntimeError("mine")


@pytest.mark.slow
def test_a_callback_that_raises_ends_the_run_with_its_checkpoint(tmp_path):
  notes = Evaluations()
  with pytest.raises(RuntimeError, match="mine") as caught:
    run([Fails(), notes], tmp_path)
  assert caught.value.__notes__ == [
    "in the callback Fails.on_evaluation",
    f"round 2 is saved in {tmp_path}, and the same command goes on from there",
  ]
  assert notes.end.reason == "error" and notes.end.error is caught.value
  assert notes.end.note == caught.value.__notes__[1]
  assert not (tmp_path / "summary.json").exists()
  again = Evaluations()
  result = run([again], tmp_path)
  # What a callback is told of a run that goes on.
  assert again.start.round == 2
  assert list(again.start.history) == result.history[:1]
  assert again.told[:3] == [
    ("begin", 2),
    ("note", again.told[1][1]),
    ("note", "goes on after round 2, from a checkpoint"),
  ]
  assert [x.round for x in again.found] == [4]
  assert result.history == run([]).history


class Stops(qj.Callback):
  """Stops a run after its first evaluation, and when it goes on."""

  def on_begin(self, start):
    if start.history:
      raise qj.StopRun("enough before")

  def on_evaluation(self, evaluation):
    raise qj.StopRun("enough")


@pytest.mark.slow
def test_a_callback_can_stop_a_run_which_says_so_and_can_go_on(tmp_path):
  notes = Evaluations()
  result = run([Stops(), notes], tmp_path)
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["rounds"] == 2
  assert summary["stopped"] == {"why": "enough", "rounds_left": 2}
  assert len(result.history) == 1 and "round 2:" in repr(result)
  assert notes.end.reason == "stopped" and notes.end.note == "enough"
  assert notes.end.summary == result.summary
  # Whoever still wants it to stop gets the same results, without a round.
  again = run([Stops()], tmp_path)
  assert again.history == result.history and again.clients == result.clients
  assert again.summary["stopped"]["why"] == "enough before"
  whole = run([], tmp_path)
  assert len(whole.history) == 2 and "stopped" not in whole.summary
  assert whole.history == run([]).history


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one", "vmap"])
def test_each_run_of_a_sweep_has_its_own_callbacks(tmp_path, strategy):
  made = {}

  def callbacks(swept):
    made[swept.folder] = Evaluations()
    return [made[swept.folder], qj.callbacks.CSV()]

  runs = qj.sweep(
    SETTINGS,
    {"seed": (0, 1)},
    tmp_path,
    callbacks=callbacks,
    quiet=True,
    run_strategy=strategy,
  )
  for swept in runs:
    notes = made[swept.folder]
    assert notes.start.workdir == swept.folder
    # The single runs of a sweep draw no figures.
    undrawn = dataclasses.replace(swept.settings, figures=False)
    assert notes.start.settings == undrawn
    assert [x.metrics for x in notes.found] == list(swept.history)
    assert notes.end.summary == swept.summary
    assert swept.folder is not None
    with (swept.folder / "metrics.csv").open(newline="") as file:
      rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [
      record["loss"] for record in swept.history
    ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one", "vmap"])
def test_a_run_of_a_sweep_that_stops_costs_the_others_nothing(
  tmp_path, strategy
):
  def sweep(stops):
    return qj.sweep(
      SETTINGS,
      {"seed": (0, 1, 2)},
      tmp_path / "all",
      callbacks=lambda x: [Stops()] * (x.settings.seed in stops),
      quiet=True,
      run_strategy=strategy,
    )

  runs = sweep({1})
  expected = qj.sweep(SETTINGS, {"seed": (0, 1, 2)}, quiet=True)
  assert [len(x.history) for x in runs] == [2, 1, 2]
  for swept, other in zip(runs, expected, strict=True):
    for found, want in zip(swept.history, other.history, strict=False):
      assert found == pytest.approx(want, rel=1e-4)
  # It is not mistaken for a whole run.
  again = sweep(set())
  assert [len(x.history) for x in again] == [2, 2, 2]
  assert again[0].summary == runs[0].summary
  assert again[1].history[1] == pytest.approx(expected[1].history[1], rel=1e-4)


@pytest.mark.slow
def test_of_runs_at_once_a_callback_that_raises_ends_all_with_checkpoints(
  tmp_path,
):
  made = []

  def callbacks(swept):
    made.append(Evaluations())
    return [made[-1], *[Fails()] * (swept.settings.seed == 1)]

  def sweep(callbacks=None):
    return qj.sweep(
      SETTINGS,
      {"seed": (0, 1, 2)},
      tmp_path,
      callbacks=callbacks,
      quiet=True,
      run_strategy="vmap",
    )

  with pytest.raises(RuntimeError, match="mine") as caught:
    sweep(callbacks)
  assert caught.value.__notes__[-1] == "so are the 2 runs beside it"
  assert [notes.end.reason for notes in made] == ["error"] * 3
  assert len(list(tmp_path.glob("*/checkpoints/round_00000002"))) == 3
  runs = sweep()
  expected = qj.sweep(SETTINGS, {"seed": (0, 1, 2)}, quiet=True)
  for swept, other in zip(runs, expected, strict=True):
    assert len(swept.history) == 2
    assert swept.history[1] == pytest.approx(other.history[1], rel=1e-4)


_OF_TWO = """
import dataclasses, sys
import quped_jax as qj
from quped_jax.simulation import processes
from tests.experiment import test_callbacks as own

port, number, workdir, name = sys.argv[1:]
processes.join(f"localhost:{port}", 2, int(number))
settings = dataclasses.replace(own.SETTINGS, clients=4, devices=0)
result = own.run([getattr(own, name)()], workdir, settings)
print(result.summary["rounds"], result.summary["stopped"]["why"])
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["Stops", "Fails"])
def test_several_processes_do_what_a_callback_of_the_first_asks(tmp_path, name):
  port = str(free_port())
  started = [
    subprocess.Popen(
      [sys.executable, "-c", _OF_TWO, port, number, str(tmp_path), name],
      cwd=ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in ("0", "1")
  ]
  (code, out, err), (other_code, other_out, _) = map(finish, started)
  # All save together, whatever ends the run.
  assert (tmp_path / "checkpoints" / "round_00000002").is_dir()
  if name == "Stops":
    assert (code, other_code) == (0, 0), err
    # Before it, some versions of JAX's transport say that they are connected.
    assert out.splitlines()[-1] == other_out.splitlines()[-1] == "2 enough"
  else:
    assert code and other_code
    assert "RuntimeError: mine" in err and "round 2 is saved" in err
