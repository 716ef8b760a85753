"""A bar of rounds with text below it, live on a terminal or in a notebook."""

import importlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

import rich.console
import rich.jupyter
import rich.live
import rich.text

# In characters.
_LONGEST_BAR = 20
_SHORTEST_BAR = 6
# Seconds between two updates.
_PAUSE = 0.25


class Progress(rich.jupyter.JupyterMixin):
  """What is shown, which can be changed while it is.

  Of a narrow terminal the label and the bar lose what does not fit, never the
  number of rounds and the time; what is said goes on in the next line.

  Args:
    label: what is done.
    rounds: how many rounds there are.

  Attributes:
    done: how many of them are done.
    left: how long the others take, in words; "" if that is not known.
    said: lines below the bar.
  """

  def __init__(self, label: str, rounds: int):
    self._label, self._rounds = label, rounds
    self.done, self.left = 0, ""
    self.said: tuple[str, ...] = ()

  def __rich_console__(
    self,
    console: rich.console.Console,
    options: rich.console.ConsoleOptions,
  ) -> Iterator[rich.text.Text]:
    """Draws it, as wide as there is room."""
    mark = "-" if options.ascii_only else "━"
    plain = options.ascii_only or console.no_color or not console.color_system
    yield self._bar(options.max_width, mark, " " if plain else mark)
    for line in self.said:
      yield rich.text.Text(line)

  def _bar(self, width: int, full: str, empty: str) -> rich.text.Text:
    ending = f"{self.done}/{self._rounds}"
    if self.left:
      ending += f"  {self.left}"
    room = width - len(ending) - 2
    label = rich.text.Text(self._label, end="")
    label.truncate(max(room - _SHORTEST_BAR, 1), overflow="ellipsis")
    size = min(room - label.cell_len, _LONGEST_BAR)
    done = size * self.done // max(self._rounds, 1)
    bar = rich.text.Text(no_wrap=True, overflow="crop")
    bar.append_text(label)
    if size > 0:
      bar.append(" ")
      bar.append(full * done, "bar.complete")
      bar.append(empty * (size - done), "bar.back")
    return bar.append(f" {ending}")


class Shown(Protocol):
  """Where progress is shown."""

  def refresh(self) -> None:
    """Shows what has changed, now or soon."""
    ...

  def stop(self) -> None:
    """Leaves the last state where it is."""
    ...


class Terminal:
  """Progress in the last lines of a terminal; what is printed goes above it."""

  def __init__(self, console: rich.console.Console, progress: Progress):
    self._live = rich.live.Live(
      progress, console=console, refresh_per_second=1 / _PAUSE
    )
    self._live.start(refresh=True)

  def refresh(self) -> None:
    """Does nothing: a thread of rich's shows what has changed."""

  def stop(self) -> None:
    self._live.stop()


class Notebook:
  """Progress in a notebook's output, updated in place.

  Rich's own needs ipywidgets; this one only what every notebook has.
  """

  def __init__(self, progress: Progress):
    self._progress = progress
    display: Any = importlib.import_module("IPython.display").display
    self._handle = display(progress, display_id=True)
    self._last = time.monotonic()

  def refresh(self) -> None:
    if time.monotonic() - self._last >= _PAUSE:
      self._last = time.monotonic()
      self._handle.update(self._progress)

  def stop(self) -> None:
    self._handle.update(self._progress)


def show(console: rich.console.Console, progress: Progress) -> Shown:
  """Shows progress where a console writes, a terminal or a notebook."""
  if console.is_jupyter:
    return Notebook(progress)
  return Terminal(console, progress)
