"""Runs in a folder that has results already, of the same run or another."""

import json
import shutil

import pytest

import quped_jax as qj
from tests import tiny

QUIET = qj.Display(quiet=True)


def short(**changes):
  """A run that ends before its first checkpoint is due."""
  values = {
    "dataset": "digits",
    "method": "fedavg",
    "clients": 3,
    "classes_per_client": 4,
    "bits": (32,),
    "hidden": (8, 8),
    "steps": 1,
    "rounds": 1,
    "validation_fraction": 0.2,
    "strategy": "chunks",
  }
  return qj.Settings(**{**values, **changes})


def read(workdir, name):
  return json.loads((workdir / name).read_text())


def content(workdir):
  files = sorted(x for x in workdir.rglob("*") if x.is_file())
  return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_finished_results_of_another_run_are_kept(tmp_path):
  qj.run(short(save_models="clients"), tmp_path, display=QUIET)
  assert list((tmp_path / "models").iterdir())
  before = content(tmp_path)
  message = (
    r"workdir='.*': must be another folder, or be started anew \(--restart, "
    r"resume=False\), since it has results of another run: "
  )
  others = [
    (short(seed=1), {}, "seed is 0 there and 1 here"),
    (short(method="local"), {}, "method is 'fedavg' there and 'local' here$"),
    (
      short(),
      {"federation": tiny.make_federation((9, 9, 9))},
      "data is not the same",
    ),
    (
      short(),
      {"model": qj.create_model("mlp", 10, features=(9, 9))},
      "global network is not the same$",
    ),
  ]
  for other, given, differs in others:
    with pytest.raises(ValueError, match=f"{message}.*{differs}"):
      qj.run(other, tmp_path, display=QUIET, **given)
    assert content(tmp_path) == before
  result = qj.run(short(seed=1), tmp_path, display=QUIET, resume=False)
  assert read(tmp_path, "config.json")["seed"] == 1
  assert read(tmp_path, "summary.json")["seed"] == result.summary["seed"] == 1
  # Those of the run that was replaced.
  assert not list((tmp_path / "models").glob("*"))


@pytest.mark.slow
def test_results_that_do_not_say_what_they_are_of_are_kept(tmp_path):
  """Such as those of versions that recorded settings only."""
  qj.run(short(), tmp_path, display=QUIET)
  (tmp_path / "identity.json").unlink()
  before = content(tmp_path)
  with pytest.raises(ValueError, match="data is not known there and given"):
    qj.run(short(), tmp_path, display=QUIET)
  assert content(tmp_path) == before


@pytest.mark.slow
def test_a_finished_run_may_be_run_again_and_keeps_its_models(tmp_path):
  first = qj.run(short(save_models="clients"), tmp_path, display=QUIET)
  models = content(tmp_path / "models")
  again = qj.run(short(), tmp_path, display=QUIET)
  assert again.clients == first.clients and again.history == first.history
  assert content(tmp_path / "models") == models
  assert read(tmp_path, "config.json")["save_models"] == "none"


@pytest.mark.slow
def test_a_run_from_a_given_state_is_not_that_from_fresh_weights(tmp_path):
  first = qj.run(short(), tmp_path / "fresh", display=QUIET)
  state = first.simulation.export(first.state)
  given = short(rounds=2, checkpoint_every=1)

  def go_on(workdir, **how):
    start = first.simulation.restore(state)
    return qj.run(given, workdir, state=start, display=QUIET, **how)

  with pytest.raises(ValueError, match="initial state is 'fresh weights' ther"):
    go_on(tmp_path / "fresh")
  go_on(tmp_path / "given")
  # Its checkpoints are not those of a run without it, or from another.
  for other in (None, first.simulation.init(1)):
    with pytest.raises(ValueError, match="initial state is "):
      qj.run(given, tmp_path / "given", state=other, display=QUIET)
  go_on(tmp_path / "given", resume=False)


@pytest.mark.slow
def test_a_run_from_a_given_state_resumes_from_its_own_checkpoints(tmp_path):
  state = qj.run(short(), display=QUIET)
  simulation, start = state.simulation, state.simulation.export(state.state)
  given = short(rounds=4, checkpoint_every=1, keep_checkpoints=9)
  results, notes = [], []

  class Notes(qj.Callback):
    def on_note(self, text):
      notes.append(text)

  for folder in ("whole", "whole", "ended"):
    if folder == "ended":
      shutil.copytree(tmp_path / "whole", tmp_path / "ended")
      (tmp_path / "ended" / "summary.json").unlink()
      for path in sorted((tmp_path / "ended" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    results.append(
      qj.run(
        given,
        tmp_path / folder,
        state=simulation.restore(start),
        callbacks=[Notes()],
        display=QUIET,
      )
    )
  assert [note for note in notes if "quantized in" not in note] == [
    f"goes on after round {n}, from a checkpoint" for n in (4, 2)
  ]
  assert results[0].history == results[1].history == results[2].history
  assert results[0].clients == results[2].clients


@pytest.mark.slow
def test_a_finished_run_that_is_begun_once_more_keeps_its_results(tmp_path):
  """Until it has the same again."""
  qj.run(short(), tmp_path, display=QUIET)
  shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
  names = "summary.json", "clients.csv", "metrics.jsonl"

  def results():
    return [(tmp_path / name).read_text() for name in names]

  before = results()

  notes = []

  class Stop(qj.Callback):
    def on_note(self, text):
      notes.append(text)

    def on_evaluation(self, evaluation):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    qj.run(short(), tmp_path, display=QUIET, callbacks=[Stop()])
  assert results() == before
  said = f"{tmp_path} has the results of this very run: it trains again"
  assert any(note.startswith(said) for note in notes)
  qj.run(short(), tmp_path, display=QUIET)
  assert not (tmp_path / "metrics.jsonl.new").exists()
  assert results()[2].count("\n") == before[2].count("\n")
