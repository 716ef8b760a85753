"""The bar of rounds, on terminals of any width and in notebooks."""

import sys
import types
from typing import Any

import pytest
import rich.console

from quped_jax.experiment.callbacks import progress

LABEL = "quped 1,2,3,4,32 bits, seed 0"


def drawn(width, label="quped", done=3, rounds=12, left="", **options):
  console = rich.console.Console(
    **{"width": width, "color_system": None, "record": True, **options}
  )
  shown = progress.Progress(label, rounds)
  shown.done, shown.left, shown.said = done, left, ("personalized 50.0 %",)
  with console.capture() as capture:
    console.print(shown)
  return capture.get().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("label", ["quped", LABEL, LABEL * 3])
@pytest.mark.parametrize("left", ["", "1:07:31 left"])
def test_it_fits_and_always_shows_rounds_and_time(width, label, left):
  lines = drawn(width, label, 999, 1000, left)
  assert all(len(line) <= width for line in lines)
  if width >= 40:
    assert len(lines) == 2
    assert lines[0].endswith(f"999/1000  {left}".rstrip())
    assert "━" in lines[0] and lines[0].startswith("quped")
  assert "personalized" in "".join(lines)


def test_the_bar_is_as_full_as_rounds_are_done():
  def full(done):
    return drawn(80, done=done)[0].count("━")

  assert [full(done) for done in (0, 3, 6, 12)] == [0, 5, 10, 20]


def test_with_colors_the_rest_of_the_bar_is_drawn_too():
  (line, _) = drawn(80, color_system="truecolor", force_terminal=True)
  assert line.count("━") == 20 and "\x1b[" in line


def test_a_long_label_loses_its_end():
  (line, _) = drawn(40, LABEL, 3, 12)
  assert line.startswith("quped 1,2,3,4,32 bits, s") and "… " in line


class Notebook:
  """Takes the place of IPython's display, and records what is shown."""

  def __init__(self):
    self.shown: list[str] = []
    self.outputs = 0

  def display(self, what: Any, *, display_id: bool) -> "Notebook":
    assert display_id
    self.outputs += 1
    self.update(what)
    return self

  def update(self, what: Any) -> None:
    self.shown.append(what._repr_mimebundle_((), ())["text/html"])


@pytest.fixture
def notebook(monkeypatch):
  found = Notebook()
  module: Any = types.ModuleType("IPython.display")
  module.display = found.display
  monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
  monkeypatch.setitem(sys.modules, "IPython.display", module)
  return found


def test_in_a_notebook_it_is_updated_in_place(notebook):
  console = rich.console.Console(force_jupyter=True)
  state = progress.Progress("quped", 1000)
  shown = progress.show(console, state)
  for state.done in range(1000):
    shown.refresh()
  state.done = 1000
  shown.stop()
  assert notebook.outputs == 1
  assert "quped" in notebook.shown[0] and "0/1000" in notebook.shown[0]
  assert "1000/1000" in notebook.shown[-1]
  # Not for every round.
  assert len(notebook.shown) < 100
