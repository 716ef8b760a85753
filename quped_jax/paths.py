"""Paths that users give, and files that are written whole or not at all."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO, Any


def given(field: str, path: Any) -> pathlib.Path:
  """The path that a user gave, in which `~` stands for a home folder.

  Args:
    field: what errors call it.
    path: the path, a string or path object.

  Raises:
    ValueError: no path, an empty one, or one in the home of nobody.
  """
  try:
    text = os.fsdecode(path)
  except TypeError as error:
    raise ValueError(f"{field}={path!r}: must be a path") from error
  if not text:
    raise ValueError(
      f"{field}='': must not be empty; the current folder is called '.'"
    )
  if "\0" in text:
    raise ValueError(f"{field}={text!r}: must be a path without NUL bytes")
  if not text.startswith("~"):
    return pathlib.Path(text)
  expanded = os.path.expanduser(text)
  if expanded.startswith("~"):
    raise ValueError(
      f"{field}={text!r}: must be in the home folder of a user who has one "
      "(HOME is not set, or there is no such user); './~' begins a name in the "
      "current folder"
    )
  return pathlib.Path(expanded)


def default(variable: str, path: str) -> pathlib.Path:
  """The folder that an environment variable names, or else one in the home.

  Args:
    variable: its name.
    path: where the folder is if the variable is not set or empty.

  Raises:
    ValueError: a folder in the home of nobody.
  """
  if value := os.environ.get(variable):
    return given(variable, value)
  try:
    return given(variable, path)
  except ValueError as error:
    raise ValueError(
      f"{variable}: must be set to a folder, since {path} cannot be used: this "
      "user has no home folder"
    ) from error


def check_other(
  field: str, path: pathlib.Path, **read: str | os.PathLike
) -> None:
  """Raises a ValueError if a file to write would replace one that is read.

  Args:
    field: what errors call the file to write.
    path: of that file.
    **read: paths of files that are read, by what errors call them.
  """
  for name, other in read.items():
    # Also where a link or another name leads there.
    with contextlib.suppress(OSError):
      if os.path.samefile(path, given(name, other)):
        raise ValueError(
          f"{field}={str(path)!r}: must be another file than "
          f"{name}={os.fspath(other)!r}, which it would replace"
        )


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
  """Opens a file to write, which replaces what is at the path when it is whole.

  It lies beside the path until then, so that nobody ever sees half of it, even
  after a crash; if it cannot be written, what was there before stays. A link
  stays one, to the new file. What is no regular file, such as a pipe or a
  device, is written to as it is.

  Args:
    path: of the file.

  Raises:
    OSError: it cannot be written.
  """
  if os.path.exists(path) and not os.path.isfile(path):
    with open(path, "wb") as file:
      yield file
    return
  target = pathlib.Path(os.path.realpath(path))
  # A name of its own: processes that share a cache may write at once.
  part = target.with_name(f".{secrets.token_hex(8)}.part")
  try:
    with open(part, "xb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, target)
  except BaseException as error:
    part.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.errno and error.filename is None:
      error.filename = os.fspath(path)  # Writing does not know it.
    raise
  sync(target.parent)


def replace_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file as `replacing` does, in UTF-8.

  Raises:
    OSError: it cannot be written.
  """
  with replacing(path) as file:
    file.write(text.encode())


def sync(path: str | os.PathLike) -> None:
  """Waits until a file's content, or a folder's list of names, is on disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
