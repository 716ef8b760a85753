"""Runs that go at once, shown as one."""

import quped_jax as qj
from quped_jax.experiment.callbacks.as_one import AsOne
from tests.experiment.callbacks import told


class Shown(qj.Display):
  """Records what it is told."""

  def __init__(self):
    super().__init__(quiet=True)
    self.told = []

  def on_begin(self, start):
    self.told.append(start)

  def on_note(self, text):
    self.told.append(text)

  def on_rounds(self, first, last):
    self.told.append((first, last))

  def on_evaluation(self, evaluation):
    self.told.append(evaluation)

  def on_end(self, end):
    self.told.append("end")


def test_what_all_runs_say_is_said_once(tmp_path):
  display = Shown()
  shown = AsOne(display, 2)
  for name in ("a", "b"):
    shown.on_begin(told.start(tmp_path / name))
    shown.on_note("quantized in mlp")
    shown.on_note(name)
  for _ in range(2):
    shown.on_rounds(1, 3)
  for _ in range(2):
    shown.on_rounds(4, 4)
  (start, *others) = display.told
  # Each has a folder of its own.
  assert start == told.start(None)
  assert others == ["quantized in mlp", "a", "b", (1, 3), (4, 4)]


def test_evaluations_are_shown_as_means_and_their_costs_as_sums():
  display = Shown()
  shown = AsOne(display, 2)
  shown.on_evaluation(told.evaluation(3, diverged=(1,)))
  metrics = {"round": 3, "loss": 3.0, "test/quantized": 1, "test/global": 0.255}
  shown.on_evaluation(told.evaluation(3, metrics=metrics, diverged=(2, 4)))
  assert display.told == []
  shown.show()
  shown.show()
  (found,) = display.told
  assert found.round == 3
  assert found.metrics == {
    "round": 3, "loss": 2.0, "test/quantized": 0.75, "test/global": 0.255,
  }  # fmt: skip
  assert found.seconds_per_round == 0.5
  assert (found.bytes_up, found.bytes_down) == (6e6, 12e6)
  assert len(found.diverged) == 3


def test_it_is_shown_until_all_are_closed():
  display = Shown()
  shown = AsOne(display, 2)
  shown.on_end(told.end())
  assert display.told == []
  shown.close()
  assert display.told == ["end"]


def test_it_is_called_by_the_number_of_runs(capsys):
  shown = AsOne(qj.Display(label="first"), 3)
  shown.on_begin(told.start())
  assert capsys.readouterr().out.startswith("3 runs at once: quped on digits: ")
