"""What a run asks for, and when; nothing is compiled."""

import math
from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import loop
from quped_jax.experiment.loop import Advance, Evaluate, Evaluated
from quped_jax.experiment.resume import Progress
from quped_jax.experiment.telling import Wish


class Recorder:
  """Records the rounds alone."""

  def begun(self, state):
    return [{"round": state()}]

  def evaluated(self, state, round_, scores):
    assert state() == round_ and set(scores) == {"quantized"}
    return [{"round": round_}]


class Run:
  """A run's state and files, which note what is saved and shown."""

  def __init__(self, round_=0, last_saved=-1, **changes):
    self.settings = qj.Settings(method="quped", **changes)
    self.round, self.last_saved = round_, last_saved
    self.saved: list[int] = []
    self.told: list[Any] = []
    self.wishes: dict[int, Wish] = {}
    self.written: list[dict[str, Any]] = []
    self.diverged: list[int] = []
    self.ends_at: int | None = None

  # Of a Job, and of what it holds.
  made = simulation = saver = writer = property(lambda self: self)
  recorder = Recorder()
  population = participation = telling = property(lambda self: self)
  primary_variant = "quantized"
  bytes_up, bytes_down = 10, 20

  def mean(self, clients):
    return clients / 2

  def is_due(self, round_, *, last=False):
    every = self.settings.checkpoint_every
    return bool(every and round_ % every == 0) or (
      last and self.last_saved >= 0
    )

  def save(self, state, progress):
    del progress
    self.last_saved = state
    self.saved.append(state)

  def note(self):
    return f"round {self.last_saved} is saved"

  def metrics(self, record):
    self.written.append(record)

  # Of Held.
  def state(self) -> Any:
    return self.round

  def records(self) -> Any:
    return self

  # Of Stop.
  def seen(self):
    return 15 if self.round == self.ends_at else 0

  # Of a Telling.
  def rounds(self, first, last):
    self.told.append((first, last))

  def evaluated(self, evaluation):
    self.told.append(evaluation)

  def wish(self, evaluated):
    wish = self.wishes.get(self.round, Wish())
    return wish if evaluated or wish.failed else Wish()

  def raise_error(self):
    raise RuntimeError("of a callback")


@pytest.fixture(autouse=True)
def reports(monkeypatch):
  """The rounds after which a run has diverged are its own to say."""

  def check(settings, run, known):
    del settings, known
    if run.round in run.diverged:
      raise qj.DivergenceError("it diverged")
    return []

  monkeypatch.setattr(loop.divergence_reports, "check_divergence", check)


def follow(run, progress, at_once=100):
  """What a run asks for, and how its rounds end."""
  job: Any = run
  asking = loop.rounds(job, run, progress, run, at_once)
  asked, given = [], None
  while True:
    try:
      ask = asking.send(given)
    except StopIteration as end:
      return asked, end.value
    asked.append(ask)
    given = None
    if isinstance(ask, Advance):
      run.round += ask.rounds
    else:
      told = {"participants": 2.0, "diverged": 0.0, "loss": 1 / run.round}
      table = {"test": {"quantized": np.array([0.25, np.nan, 0.75])}}
      given = Evaluated(told, table, 0.5)


def test_rounds_are_asked_for_up_to_where_something_happens():
  run = Run(rounds=7, eval_every=3, checkpoint_every=2)
  progress = Progress()
  asked, end = follow(run, progress)
  assert asked == [
    Advance(2, False),
    Advance(1, False), Evaluate(),
    Advance(1, False),
    Advance(2, False), Evaluate(),
    Advance(1, False), Evaluate(),
  ]  # fmt: skip
  # And after the last, since there are checkpoints.
  assert run.saved == [2, 4, 6, 7]
  assert run.written == progress.history == end.progress.history
  assert [record["round"] for record in run.written] == [3, 6, 7]
  assert run.written[1]["loss"] == 1 / 6
  assert run.written[1]["test/quantized"] == 0.5
  assert progress.seconds == [0.5] * 3
  assert progress.best["test"]["round"] == 3
  assert end.diverged == []


def test_what_figures_need_is_recorded_at_the_start_and_after_evaluations():
  run, progress = Run(rounds=7, eval_every=3, checkpoint_every=2), Progress()
  run.ends_at = 4
  with pytest.raises(qj.Interrupted):
    follow(run, progress)
  assert [record["round"] for record in progress.figures] == [0, 3]
  run.ends_at = None
  follow(run, progress)
  assert [record["round"] for record in progress.figures] == [0, 3, 6, 7]
  # Before the first evaluation it goes on with the record of its beginning.
  progress = Progress(figures=[{"round": 0}])
  follow(Run(round_=2, rounds=3, eval_every=3), progress)
  assert [record["round"] for record in progress.figures] == [0, 3]


def test_callbacks_are_told_of_rounds_in_one_dispatch_and_of_evaluations():
  run = Run(rounds=5, eval_every=3, clients=4)
  follow(run, Progress(), at_once=2)
  first, second, found, third, last = run.told
  assert [first, second, third] == [(1, 2), (3, 3), (4, 5)]
  assert (found.round, last.round) == (3, 5)
  assert found.metrics == run.written[0] and found.metrics is not run.written[0]
  assert found.seconds_per_round == 0.5
  # Two of four take part.
  assert (found.bytes_up, found.bytes_down) == (3 * 2 * 10, 3 * 2 * 20)


def test_a_callback_stops_a_run_after_an_evaluation_with_a_checkpoint():
  run = Run(rounds=6, eval_every=2)
  run.wishes = dict.fromkeys(range(1, 7), Wish(stop="enough"))
  progress = Progress()
  asked, end = follow(run, progress, at_once=1)
  assert asked == [Advance(1, False), Advance(1, False), Evaluate()]
  assert end.stopped == "enough" and run.saved == [2]
  # Once more, it is not begun.
  run.told.clear()
  asked, end = follow(run, progress)
  assert asked == [Evaluate()] and end.stopped == "enough" and not run.told


def test_a_run_that_is_stopped_in_its_last_round_is_a_whole_one():
  run = Run(rounds=2)
  run.wishes = {2: Wish(stop="enough")}
  assert follow(run, Progress())[1].stopped is None


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_callback_that_failed_ends_a_run_with_a_checkpoint(after):
  """Also after rounds without an evaluation, and after the last."""
  run = Run(rounds=4, eval_every=2)
  run.wishes = {after: Wish(failed=True)}
  with pytest.raises(RuntimeError, match="of a callback"):
    follow(run, Progress(), at_once=1)
  assert run.saved == [after]


def test_a_dispatch_has_at_most_so_many_rounds():
  asked, _ = follow(Run(rounds=5, eval_every=5), Progress(), at_once=2)
  assert asked == [
    Advance(2, False), Advance(2, False), Advance(1, False), Evaluate(),
  ]  # fmt: skip


def test_the_fine_tuning_phase_begins_once():
  run = Run(rounds=3, eval_every=3, finetune_at=1)
  progress = Progress()
  asked, _ = follow(run, progress)
  assert asked == [Advance(1, False), Advance(2, True), Evaluate()]
  assert progress.finetuning
  # Nor again where a run goes on.
  run = Run(round_=2, rounds=3, finetune_at=1)
  assert follow(run, progress)[0] == [Advance(1, False), Evaluate()]


def test_a_run_that_is_done_is_evaluated_for_its_end_alone():
  run, progress = Run(round_=2, last_saved=2, rounds=2), Progress()
  asked, end = follow(run, progress)
  assert asked == [Evaluate()]
  assert math.isclose(np.nanmean(end.scores["test"]["quantized"]), 0.5)
  assert not run.written and not progress.history


@pytest.mark.parametrize("after", [1, 3])
def test_a_signal_ends_a_run_with_a_checkpoint(after):
  """Even if it comes during the last rounds."""
  run = Run(rounds=3)
  run.ends_at = after
  with pytest.raises(qj.Interrupted, match=f"SIGTERM: round {after} is saved"):
    follow(run, Progress())
  assert run.saved == [after]


def test_a_run_that_diverges_is_saved():
  run = Run(rounds=3)
  run.diverged = [2]
  with pytest.raises(qj.DivergenceError):
    follow(run, Progress())
  assert run.saved == [2]
  assert [record["round"] for record in run.written] == [1, 2]
