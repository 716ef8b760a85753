"""What callbacks are told of a run, and the run of them."""

import pytest

import quped_jax as qj
from quped_jax.experiment.telling import Telling, Wish, telling_of
from tests.experiment.callbacks import told


class Notes(qj.Callback):
  """Records the names of what it is told."""

  def __init__(self):
    self.told = []
    self.raises: dict[str, Exception] = {}

  def _told(self, event, value):
    self.told.append((event, value))
    if event in self.raises:
      raise self.raises[event]

  def on_begin(self, start):
    self._told("begin", start.round)

  def on_note(self, text):
    self._told("note", text)

  def on_rounds(self, first, last):
    self._told("rounds", (first, last))

  def on_evaluation(self, evaluation):
    self._told("evaluation", evaluation.round)

  def on_end(self, end):
    self._told("end", end.reason)
    self.end = end


def begin(telling, round_=0, notes=(), goes_on=""):
  telling.begin(told.start(round_=round_), notes, goes_on)


@pytest.fixture
def two():
  callbacks = Notes(), Notes()
  telling = Telling(callbacks)
  telling.saved = lambda: "round 2 is saved"
  begin(telling)
  return telling, *callbacks


def test_callbacks_are_told_all_in_their_order():
  order = []

  class Names(qj.Callback):
    def __init__(self, name):
      self.name = name

    def on_begin(self, start):
      order.append(self.name)

  display = Names("display")
  begin(Telling([Names("first"), Names("second")], display))
  assert order == ["display", "first", "second"]


def test_notes_come_after_the_beginning():
  notes = Notes()
  begin(Telling([notes]), 2, ["quantized"], "goes on after round 2")
  assert notes.told == [
    ("begin", 2), ("note", "quantized"), ("note", "goes on after round 2"),
  ]  # fmt: skip


def test_nothing_is_told_twice_if_a_run_begins_again(two):
  telling, notes, _ = two
  telling.rounds(1, 1)
  telling.evaluated(told.evaluation(1))
  begin(telling, 0, ["quantized"])
  telling.rounds(1, 1)
  telling.evaluated(told.evaluation(1))
  telling.evaluated(told.evaluation(2))
  # But rounds are, which are computed once more.
  assert notes.told == [
    ("begin", 0), ("rounds", (1, 1)), ("evaluation", 1), ("rounds", (1, 1)),
    ("evaluation", 2),
  ]  # fmt: skip


def test_a_display_that_comes_later_is_told_that_the_run_begins(two):
  telling, notes, _ = two
  telling.display = Notes()
  begin(telling, 0, ["quantized"])
  assert telling.display.told == [("begin", 0), ("note", "quantized")]
  assert notes.told == [("begin", 0)]


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (qj.DivergenceError("all"), "diverged"),
    (KeyboardInterrupt(), "interrupted"),
    (qj.Interrupted(15, "round 2 is saved"), "interrupted"),
    (OSError("full"), "error"),
    (RuntimeError("other"), "error"),
  ],
)
def test_all_are_told_how_a_run_ended(two, error, reason):
  telling, *callbacks = two
  telling.evaluated(told.evaluation(1))
  telling.failed(error)
  for notes in callbacks:
    assert notes.end == (reason, 1, None, error, "round 2 is saved")
  noted = isinstance(error, (OSError, KeyboardInterrupt))
  noted = noted and not isinstance(error, qj.Interrupted)
  assert getattr(error, "__notes__", []) == ["round 2 is saved"] * noted


def test_the_end_has_a_copy_of_the_summary(two):
  telling, notes, _ = two
  summary = {"rounds": 4, "accuracy": {"global": {"mean": 0.5}}}
  telling.done(summary)
  assert notes.end == ("finished", 0, summary, None, "")
  notes.end.summary["accuracy"]["global"]["mean"] = 0
  assert summary["accuracy"]["global"]["mean"] == 0.5


def test_a_run_that_was_stopped_ends_as_such(two):
  telling, notes, _ = two
  telling.done({"rounds": 2, "stopped": {"why": "enough", "rounds_left": 2}})
  assert notes.end[0] == "stopped" and notes.end.note == "enough"


def test_who_was_not_told_of_a_beginning_is_not_told_of_an_end():
  notes = Notes()
  Telling([notes]).failed(ValueError("before"))
  assert notes.told == []


@pytest.mark.parametrize("event", ["begin", "note", "rounds", "evaluation"])
def test_an_error_is_kept_until_the_run_asks_and_names_the_callback(event):
  first, second = Notes(), Notes()
  error = first.raises[event] = ValueError("mine")
  telling = Telling([first, second])
  telling.saved = lambda: "round 2 is saved"
  begin(telling, 0, ["quantized"])
  telling.rounds(1, 2)
  telling.evaluated(told.evaluation(2))
  # It is not called again, and the other is told all.
  assert first.told[-1][0] == event
  assert [x[0] for x in second.told] == [
    "begin", "note", "rounds", "evaluation",
  ]  # fmt: skip
  assert telling.wish(evaluated=False) == Wish(failed=True)
  with pytest.raises(ValueError, match="mine") as caught:
    telling.raise_error()
  telling.failed(caught.value)
  assert error.__notes__ == [
    f"in the callback Notes.on_{event}",
    "round 2 is saved",
  ]
  assert ("end", "error") not in first.told
  assert second.end.error is error and second.end.reason == "error"


def test_an_error_at_the_end_comes_when_all_are_told(two):
  telling, first, second = two
  first.raises["end"] = ValueError("mine")
  with pytest.raises(ValueError, match="mine") as caught:
    telling.done({"rounds": 4})
  assert second.end.reason == "finished"
  assert caught.value.__notes__ == [
    "in the callback Notes.on_end",
    "the run is done, and its results are written",
  ]


def test_an_error_beside_another_is_a_note_of_it(two):
  telling, first, _ = two
  first.raises["end"] = ValueError("mine")
  error = RuntimeError("other")
  telling.failed(error)
  assert error.__notes__ == [
    "beside it, ValueError: mine; in the callback Notes.on_end"
  ]


@pytest.mark.parametrize("event", ["begin", "rounds", "evaluation"])
def test_a_stop_is_a_wish_and_no_error(event):
  first, second = Notes(), Notes()
  first.raises[event] = qj.StopRun("enough")
  telling = Telling([first, second])
  begin(telling)
  telling.rounds(1, 2)
  telling.evaluated(told.evaluation(2))
  assert telling.wish(evaluated=True) == Wish("enough")
  # It is told what follows.
  assert [x[0] for x in first.told] == ["begin", "rounds", "evaluation"]
  telling.done({"rounds": 2})
  assert first.end.reason == "finished"


def test_by_default_there_is_a_display_unless_one_is_among_the_callbacks():
  assert isinstance(telling_of([], None).display, qj.Display)
  mine = qj.Display(quiet=True)
  assert telling_of([], mine).display is mine
  assert type(telling_of([mine], None).display) is qj.Callback


def test_of_several_processes_the_first_tells(monkeypatch):
  notes = Notes()
  monkeypatch.setattr("quped_jax.simulation.processes.is_first", lambda: False)
  begin(telling_of([notes], None))
  assert notes.told == []


def test_several_processes_do_what_callbacks_of_the_first_ask(monkeypatch):
  module = "quped_jax.simulation.processes"
  monkeypatch.setattr(
    f"{module}.exchange", lambda own: [["enough", False], own]
  )
  other = Telling()
  assert other.wish(evaluated=True) == Wish("enough")
  monkeypatch.setattr(f"{module}.exchange", lambda own: [[None, True], own])
  assert other.wish(evaluated=True).failed
  # It has nothing to raise.
  other.raise_error()


def test_several_processes_do_not_wait_for_each_other_in_between(monkeypatch):
  notes = Notes()
  notes.raises["rounds"] = ValueError("mine")
  telling = Telling([notes])
  begin(telling)
  telling.rounds(1, 2)
  monkeypatch.setattr("jax.process_count", lambda: 2)
  assert telling.wish(evaluated=False) == Wish()
