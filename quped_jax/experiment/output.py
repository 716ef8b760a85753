"""Output for people: if it cannot be shown, nothing else fails.

A reader may leave (`| head -1`), a disk may fill up, and a terminal may be
closed while a run goes on.
"""

import errno
import sys
from collections.abc import Callable
from typing import Any

import rich.console


class Forgiving:
  """A text stream of which what cannot be written is lost.

  Args:
    stream: `() -> stream`, asked at each use, since `sys.stdout` may change.

  Attributes:
    error: the first error of the stream in use; None if all was written.
  """

  def __init__(self, stream: Callable[[], Any]):
    self._stream = stream
    self._failed: Any = None
    self.error: Exception | None = None

  def __getattr__(self, name: str) -> Any:
    return getattr(self._now(), name)

  def _now(self) -> Any:
    stream = self._stream()
    # A live display puts a proxy in front of it, which prints by this one.
    return getattr(stream, "rich_proxied_file", stream)

  def _try(self, action: Callable[[Any], Any]) -> None:
    stream = self._now()
    # Without a standard output there is none to write to.
    if stream is None or stream is self._failed:
      return
    try:
      action(stream)
    except (OSError, ValueError) as error:  # ValueError: it is closed.
      # What waits in its buffer would fail again.
      self._failed, self.error = stream, error

  def write(self, text: str) -> int:
    """Writes what can be written."""
    self._try(lambda stream: stream.write(text))
    return len(text)

  def writelines(self, lines: Any) -> None:
    """Likewise."""
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    """Likewise."""
    self._try(lambda stream: stream.flush())

  def lost(self) -> Exception | None:
    """Why output was lost that somebody may have wanted to read."""
    left = isinstance(self.error, OSError) and self.error.errno == errno.EPIPE
    return None if left else self.error


def forgive(
  console: rich.console.Console | None = None,
) -> rich.console.Console:
  """A console that goes quiet when it cannot write.

  Args:
    console: the one that is made so; by default one of the standard output.
  """
  console = console or rich.console.Console()
  file: Any = console.file
  if not isinstance(file, Forgiving):
    stream = (lambda: sys.stdout) if file is sys.stdout else (lambda: file)
    forgiving: Any = Forgiving(stream)  # It does what rich needs of a file.
    console.file = forgiving
  return console


def nothing(text: str) -> None:
  """Takes the place of `say` where nothing is to be shown."""


def say(text: str) -> None:
  """Prints a line on the standard output, if that is possible."""
  forgiving: Any = Forgiving(lambda: sys.stdout)  # What print needs of a file.
  print(text, file=forgiving)
