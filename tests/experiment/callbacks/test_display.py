"""What a run shows of itself: on terminals, in notebooks, and elsewhere."""

import io
import pathlib

import pytest
import rich.console

import quped_jax as qj
from quped_jax.experiment.callbacks import display as display_lib
from tests.experiment.callbacks import told
from tests.experiment.callbacks.test_progress import notebook

__all__ = ["notebook"]  # A fixture.


def lines(capsys, rounds, every=1, **options):
  """What a display off the terminal prints of rounds, but for what it is."""
  display = qj.Display(**options)
  display.on_begin(told.start(rounds=rounds))
  for round_ in range(1, rounds + 1):
    display.on_rounds(round_, round_)
    if round_ == rounds or round_ % every == 0:
      display.on_evaluation(told.evaluation(round_))
  display.on_end(told.end())
  return capsys.readouterr().out.splitlines()[1:]


def test_off_a_terminal_a_line_says_scores_and_costs(capsys):
  assert lines(capsys, 1) == [
    "quped: round 1/1: quantized 50.0 %, global 25.5 %, 0.25 s/round, "
    "1 MB up, 2 MB down"
  ]


def test_the_label_names_the_run(capsys):
  assert lines(capsys, 1, label="mine")[0].startswith("mine: round 1/1: ")


def test_long_runs_print_few_lines_the_first_and_the_last(capsys):
  printed = lines(capsys, 400, lines=10)
  assert len(printed) == 11
  assert "round 1/400" in printed[0] and " left" in printed[0]
  assert "round 400/400" in printed[-1] and " left" not in printed[-1]
  sparse = lines(capsys, 400, every=150, lines=10)
  assert len(sparse) == 3 and "round 150/400" in sparse[0]


def test_a_quiet_display_prints_nothing(capsys):
  assert lines(capsys, 3, quiet=True) == []


def test_a_quiet_display_prints_no_notes_either():
  file = io.StringIO()
  console = rich.console.Console(file=file)
  qj.Display(console, quiet=True).on_note("a note")
  assert file.getvalue() == ""
  qj.Display(console).on_note("a note")
  assert file.getvalue() == "a note\n"


def test_lines_go_to_the_console_that_was_given(capsys):
  file = io.StringIO()
  display = qj.Display(rich.console.Console(file=file))
  told.play(display, None, range(1, 2), told.end())
  assert "quped: round 1/4: " in file.getvalue()
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
  ("start", "text"),
  [
    (
      told.start(pathlib.Path("results/run"), bits=(1, 2, 32)),
      "quped on digits: 10 clients (1, 2, 32 bits), mlp, 4 rounds; 4 clients "
      "at once on 2 devices; results go to results/run",
    ),
    (
      told.start(round_=2, clients=1, bits=(1,))._replace(
        devices=1, clients_at_once=1
      ),
      "quped on digits: 1 client (1 bit), mlp, rounds 3 to 4; 1 client at once",
    ),
    (
      told.start(rounds=1, clients=1, bits=(1,))._replace(
        devices=1, clients_at_once=1
      ),
      "quped on digits: 1 client (1 bit), mlp, 1 round; 1 client at once",
    ),
  ],
)
def test_the_first_line_says_what_is_going_to_happen(start, text):
  assert display_lib.in_words(start) == text
  assert display_lib.in_words(start, "seed=1") == f"seed=1: {text}"
  file = io.StringIO()
  qj.Display(rich.console.Console(file=file, width=40)).on_begin(start)
  # A line of a log, which no width breaks.
  assert file.getvalue() == f"{text}; compiling\n"


def screen(width, **options):
  """What is on a terminal at the end, in lines, and all that was written."""
  file = io.StringIO()
  console = rich.console.Console(
    file=file, force_terminal=True, width=width, color_system=None
  )
  display = qj.Display(console, **options)
  display.on_begin(told.start(pathlib.Path("results/run"), rounds=1000))
  display.on_rounds(1, 10)
  written = file.getvalue()
  display.on_rounds(11, 20)
  metrics = {f"test/{x}": 0.5 for x in ("personalized", "quantized", "global")}
  display.on_evaluation(
    told.evaluation(999, metrics=metrics, diverged=(3, 5), bytes_up=1.234e7)
  )
  display.on_end(told.end())
  last = file.getvalue().rpartition("\x1b[2K")[2]
  return last.replace("\x1b[?25h", "").splitlines(), written


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("label", [None, "quped 1,2,3,4,32 bits, seed 0"])
def test_a_terminal_shows_all_of_it_within_its_width(width, label):
  found, written = screen(width, label=label)
  assert "compiling" in written
  assert all(len(line) <= width for line in found)
  assert "999/1000  0:01 left" in found[0] and "━" in found[0]
  below = " ".join(" ".join(found[1:]).split())
  assert below == (
    "personalized 50.0 %, quantized 50.0 %, global 50.0 % 0.25 s/round, "
    "12.3 MB up, 2 GB down, 2 clients diverged"
  )


def test_what_comes_before_the_first_evaluation_is_compiling_or_not():
  file = io.StringIO()
  console = rich.console.Console(file=file, force_terminal=True, width=80)
  display = qj.Display(console)
  display.on_begin(told.start())
  display.on_rounds(1, 2)
  assert "not evaluated yet" not in file.getvalue()
  display.on_rounds(3, 4)
  display.on_end(told.end("interrupted"))
  assert "not evaluated yet" in file.getvalue()


def test_in_a_notebook_the_bar_is_updated_in_place(notebook, monkeypatch):
  printed = []
  monkeypatch.setattr(
    "rich.jupyter.display", lambda _, text: printed.append(text)
  )
  display = qj.Display(rich.console.Console(force_jupyter=True))
  display.on_begin(told.start())
  display.on_note("quantized in mlp")
  # What is going to happen; the rest is one output, below.
  assert len(printed) == 2 and "4 rounds" in printed[0]
  assert notebook.outputs == 0
  for round_ in range(1, 5):
    display.on_rounds(round_, round_)
    display.on_evaluation(told.evaluation(round_))
  display.on_end(told.end())
  assert len(printed) == 2
  assert notebook.outputs == 1
  assert (
    "4/4" in notebook.shown[-1] and "quantized 50.0 %" in notebook.shown[-1]
  )


def test_a_run_that_was_stopped_says_why(capsys):
  end = told.end("stopped", 3, note="no better for 3 rounds")
  told.play(qj.Display(), None, range(1, 4), end)
  last = capsys.readouterr().out.splitlines()[-1]
  assert last == "stopped after round 3: no better for 3 rounds"
