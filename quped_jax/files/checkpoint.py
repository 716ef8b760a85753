"""Checkpoints: the whole state of a run at the end of a round, to resume from.

`<workdir>/checkpoints/round_00000050/` holds the state's arrays, as orbax
writes them, the rest of the run's progress (`progress.json`), and the length
and SHA-256 of each file (`manifest.json`). It is written under another name and
renamed when it is whole, so that a kill leaves all of it or none. One that is
truncated or has a flipped bit, or that cannot be restored, is skipped, and the
one before it used. One with other settings, another version or other data is
refused.

Several processes write one checkpoint into a folder that all of them see: the
first what is common to all, and each the states of its own clients
(`client_rows`), which no other process needs to have room for. Any number of
processes resumes from it. If one of them fails, none has saved it.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import filelock
import jax
import numpy as np

from quped_jax import kinds, paths, reading
from quped_jax.files import client_rows, orbax_arrays
from quped_jax.files.differences import differences, refusal
from quped_jax.files.orbax_arrays import DamagedError
from quped_jax.simulation import processes

_FORMAT = 1
_FOLDER = "checkpoints"
_MANIFEST, _PROGRESS, _STATE = "manifest.json", "progress.json", "state"
# Left free on disk, for a checkpoint's own tables and the run's other files.
_SPARE_BYTES = 1 << 20


class Checkpoint(NamedTuple):
  """What was saved.

  Attributes:
    round: how many rounds are done.
    state: a tree of numpy arrays.
    progress: JSON values.
  """

  round: int
  state: Any
  progress: dict[str, Any]


class Checkpoints:
  """The checkpoints in a workdir.

  Args:
    workdir: that of the run; it must exist.
    identity: JSON values by name: what a run must share with the one that it
      resumes.
    keep: how many of the latest are kept, at least 1; the best is kept too.
    renamed: gives the content of a `progress.json` its present names, if it was
      written with former ones; a ValueError says what is wrong with it.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    identity: Mapping[str, Any],
    keep: int = 2,
    renamed: Callable[[dict[str, Any]], dict[str, Any]] = lambda x: x,
  ):
    self._workdir = pathlib.Path(workdir)
    self._folder = self._workdir / _FOLDER
    # As it is read back from a file.
    self._identity = json.loads(json.dumps(identity))
    self._keep = keep
    self._renamed = renamed

  def _found(self) -> list[pathlib.Path]:
    """The folders of checkpoints, latest first."""
    return sorted(self._folder.glob("round_*[0-9]"), reverse=True)

  def __bool__(self) -> bool:
    return bool(self._found())

  def clear(self) -> None:
    """Deletes all checkpoints."""
    shutil.rmtree(self._folder, ignore_errors=True)

  def save(
    self,
    round_: int,
    state: Any,
    progress: Mapping[str, Any],
    value: float | None = None,
    whole: Any = None,
  ) -> None:
    """Saves a checkpoint, and deletes those that are no longer kept.

    Several processes all call this.

    Args:
      round_: how many rounds are done.
      state: tree of numpy arrays; with several processes, a SimulationState of
        the clients of this one.
      progress: JSON values.
      value: how good it is, if known; the one with the largest value is kept.
      whole: shapes of the state of all processes; by default, of `state`.

    Raises:
      OSError: it cannot be written; earlier ones are unchanged.
    """
    path = self._folder / _name(round_)
    part = self._folder / f"{path.name}.part"
    first = processes.is_first()
    content = {
      "round": round_,
      "value": value,
      "identity": self._identity,
      "arrays": _describe(state if whole is None else whole),
      "progress": progress,
    }
    try:
      _in_all(lambda: self._begin(part) if first else None)
      told = _in_all(lambda: _write(part, state, content))
      files = {name: digest for own in told for name, digest in own.items()}
      _in_all(lambda: self._finish(part, path, files) if first else None)
    except BaseException as error:
      if first:
        shutil.rmtree(part, ignore_errors=True)
      if isinstance(error, OSError):
        raise
      if isinstance(error, Exception):
        # Libraries report a full disk as errors of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error
      raise

  def _begin(self, part: pathlib.Path) -> None:
    # Left by other attempts, some of which went on writing after they failed.
    for other in self._folder.glob("*.part"):
      shutil.rmtree(other, ignore_errors=True)
    part.mkdir(parents=True)

  def _finish(self, part: pathlib.Path, path: pathlib.Path, files) -> None:
    for name, (size, _) in files.items():
      if not (part / name).exists() or (part / name).stat().st_size != size:
        raise OSError(f"{name} is not here: processes must share the folder")
    manifest = {"format": _FORMAT, "files": files}
    (part / _MANIFEST).write_text(json.dumps(manifest))
    paths.sync(part / _MANIFEST)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
    paths.sync(self._folder)
    self._thin_out()

  def _thin_out(self) -> None:
    found = self._found()
    values = {path: _value(path) for path in found}
    known = {path: v for path, v in values.items() if v is not None}
    best = max(known, key=lambda path: known[path]) if known else None
    for path in found[self._keep :]:
      if path != best:
        shutil.rmtree(path, ignore_errors=True)

  def latest(
    self, shapes: Any, kept: Mapping[str, np.ndarray] | None = None
  ) -> Checkpoint | None:
    """The latest checkpoint that is whole; None if there are no checkpoints.

    Args:
      shapes: `progress -> tree of shapes and types` that the state must have.
      kept: {cohort: ids of its clients} whose states are read, if several
        processes saved the checkpoint; one that a single process saved is read
        whole.

    Raises:
      ValueError: it is of another run; or there are some, but none is whole.
    """
    damaged = list[pathlib.Path]()
    for path in self._found():
      try:
        found = self._load(path, shapes, kept)
      except DamagedError as error:
        damaged.append(path)
        warnings.warn(
          f"checkpoint {str(path)!r} is damaged ({error}): not used",
          stacklevel=3,
        )
        continue
      for other in damaged:
        _set_aside(other)
      return found
    if damaged:
      raise ValueError(
        f"workdir={str(self._workdir)!r}: must have a checkpoint that is "
        f"whole, or be started anew (--restart, resume=False); damaged are "
        f"{', '.join(path.name for path in damaged)}"
      )
    return None

  def _load(self, path: pathlib.Path, shapes: Any, kept: Any) -> Checkpoint:
    """Reads a checkpoint; for the arguments and errors see `latest`."""
    content = _verified(path, self._renamed)
    self._check_identity(content["identity"])
    wanted = shapes(content["progress"])
    if content["arrays"] != _describe(wanted):
      raise ValueError(
        f"workdir={str(self._workdir)!r}: must be of this federation; arrays "
        f"of the checkpoint {path.name} differ in number, shape or type"
      )
    if parts := client_rows.parts(path):
      state = orbax_arrays.load(path / _STATE, client_rows.shared(wanted))
      state = client_rows.load(parts, wanted, state, kept)
    else:
      state = orbax_arrays.load(path / _STATE, wanted)
    return Checkpoint(content["round"], state, content["progress"])

  def _check_identity(self, other: Mapping[str, Any]) -> None:
    differ = differences(other, self._identity)
    if differ:
      raise refusal(self._workdir, "checkpoints", differ)


def _set_aside(path: pathlib.Path) -> None:
  """Renames a damaged checkpoint; of one round only the last is kept."""
  aside = path.with_name(f"{path.name}.damaged")
  shutil.rmtree(aside, ignore_errors=True)
  # Several processes find the same ones; one of them renames each.
  with contextlib.suppress(FileNotFoundError):
    os.replace(path, aside)


def lock(workdir: str | os.PathLike) -> filelock.BaseFileLock:
  """Locks a workdir for this run; the lock ends with the process.

  Raises:
    ValueError: another run holds the lock, or it is not a writable folder.
  """
  path = paths.given("workdir", workdir) / ".lock"
  held = filelock.FileLock(path)
  try:
    held.acquire(timeout=0)
  except filelock.Timeout as error:
    raise ValueError(
      f"workdir={str(workdir)!r}: must not be in use by another run, which "
      "holds its lock"
    ) from error
  except OSError as error:
    raise ValueError(
      f"workdir={str(workdir)!r}: must be a folder that can be written "
      f"({error.strerror})"
    ) from error
  return held


def _describe(tree: Any) -> list[list[Any]]:
  """Names, shapes and types of all arrays, as JSON values."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [
    [jax.tree_util.keystr(path), list(x.shape), np.dtype(x.dtype).name]
    for path, x in leaves
  ]


def _in_all(action: Callable[[], Any]) -> list[Any]:
  """What an action, of all processes, gives in each, as JSON values.

  Raises:
    Exception: the action's own.
    OSError: that of another process; says which.
  """
  found, own = None, None
  try:
    found = action()
  except Exception as error:  # Whatever it is, the others must hear of it.
    own = error
  told = processes.exchange([found, own and f"{type(own).__name__}: {own}"])
  if own is not None:
    raise own
  for process, (_, reason) in enumerate(told):
    if reason:
      raise OSError(f"process {process}: {reason}")
  return [value for value, _ in told]


def _write(part: pathlib.Path, state: Any, content: Any) -> dict[str, Any]:
  """Writes what is this process's to write: {file: its digest}."""
  first, here = processes.is_first(), jax.process_index()
  files = []
  if jax.process_count() > 1:
    _check_space(part, state)
    client_rows.save(part, state, here)
    files += _files(part / client_rows.name_of(here))
    state = client_rows.shared(state)
  if first:
    _check_space(part, state)
    orbax_arrays.save(part / _STATE, state)
    (part / _PROGRESS).write_text(json.dumps(content))
    files += [*_files(part / _STATE), part / _PROGRESS]
  digests = {str(file.relative_to(part)): _digest(file) for file in files}
  for file in files:
    paths.sync(file)
  return digests


def _check_space(folder: pathlib.Path, tree: Any) -> None:
  """Raises an OSError if the disk has no room for the arrays.

  Checked beforehand, since the writer would report it hundreds of times.
  """
  leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
  needed = sum(x.nbytes for x in leaves) + _SPARE_BYTES
  free = shutil.disk_usage(folder).free
  if free < needed:
    text = f"{os.strerror(errno.ENOSPC)}: {free:,} bytes, of {needed:,}"
    raise OSError(errno.ENOSPC, text)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: pathlib.Path) -> list[Any]:
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return [path.stat().st_size, digest]


def _name(round_: int) -> str:
  return f"round_{round_:08d}"


_MANIFEST_CONTENT = kinds.record(
  {"format": kinds.choice(_FORMAT), "files": kinds.table(kinds.anything)}
)
_NUMBER = kinds.number(nan=True)
_CONTENT = kinds.record(
  {
    "round": kinds.whole(),
    "value": kinds.optional(_NUMBER),
    "identity": kinds.table(kinds.anything),
    "arrays": kinds.entries(
      kinds.row(kinds.text, kinds.entries(kinds.whole()), kinds.text)
    ),
    "progress": kinds.table(kinds.anything),
  }
)


def _read(path: pathlib.Path) -> Any:
  # Accuracies of clients without samples are NaN.
  return reading.read_json(path, nan=True)


def _verified(path: pathlib.Path, renamed: Any) -> dict[str, Any]:
  """A checkpoint's content without its arrays, under present names.

  Every byte of every file is checked.

  Raises:
    DamagedError: it is not as it was written.
  """
  try:
    with reading.placed(_MANIFEST):
      files = _MANIFEST_CONTENT("", _read(path / _MANIFEST))["files"]
    present = {str(file.relative_to(path)) for file in _files(path)}
    if present != {*files, _MANIFEST}:
      raise ValueError("files are missing, or there are others")
    for name, expected in files.items():
      if _digest(path / name) != expected:
        raise ValueError(f"{name} is not as it was written")
    with reading.placed(_PROGRESS):
      content = renamed(_CONTENT("", _read(path / _PROGRESS)))
      kinds.choice(_name(content["round"]))("round", path.name)
      return content
  except (OSError, ValueError, MemoryError) as error:
    raise DamagedError(f"{type(error).__name__}: {error}") from error


def _value(path: pathlib.Path) -> float | None:
  try:
    value = _CONTENT("", _read(path / _PROGRESS))["value"]
  except (OSError, ValueError, MemoryError):
    return None
  return None if value is None or math.isnan(value) else value
