"""Checkpoints: the whole state of a run at the end of a round, to resume from.

`<workdir>/checkpoints/round_00000050/` holds the state's arrays, as orbax
writes them, the rest of the run's progress (`progress.json`), and the length
and SHA-256 of each file (`manifest.json`). It is written under another name and
renamed when it is whole, so that a kill leaves all of it or none. One that is
truncated or has a flipped bit is skipped, and the one before it used. One with
other settings, another version or other data is refused.
"""

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

from quped_jax import kinds, reading
from quped_jax.files.differences import differences, refusal

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
  ) -> None:
    """Saves a checkpoint, and deletes those that are no longer kept.

    Args:
      round_: how many rounds are done.
      state: tree of numpy arrays.
      progress: JSON values.
      value: how good it is, if known; the one with the largest value is kept.

    Raises:
      OSError: it cannot be written; earlier ones are unchanged.
    """
    path = self._folder / _name(round_)
    part = self._folder / f"{path.name}.part"
    # Left by other attempts, some of which went on writing after they failed.
    for other in self._folder.glob("*.part"):
      shutil.rmtree(other, ignore_errors=True)
    part.mkdir(parents=True)
    try:
      _check_space(part, state)
      _save_arrays(part / _STATE, state)
      content = {
        "round": round_,
        "value": value,
        "identity": self._identity,
        "arrays": _describe(state),
        "progress": progress,
      }
      (part / _PROGRESS).write_text(json.dumps(content))
      files = {
        str(file.relative_to(part)): _digest(file) for file in _files(part)
      }
      manifest = {"format": _FORMAT, "files": files}
      (part / _MANIFEST).write_text(json.dumps(manifest))
      for file in _files(part):
        _sync(file)
      shutil.rmtree(path, ignore_errors=True)
      os.replace(part, path)
      _sync(self._folder)
    except BaseException as error:
      shutil.rmtree(part, ignore_errors=True)
      if isinstance(error, OSError):
        raise
      if isinstance(error, Exception):
        # Libraries report a full disk as errors of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error
      raise
    self._thin_out()

  def _thin_out(self) -> None:
    found = self._found()
    values = {path: _value(path) for path in found}
    known = {path: v for path, v in values.items() if v is not None}
    best = max(known, key=lambda path: known[path]) if known else None
    for path in found[self._keep :]:
      if path != best:
        shutil.rmtree(path, ignore_errors=True)

  def latest(self, shapes: Any) -> Checkpoint | None:
    """The latest checkpoint that is whole; None if there are no checkpoints.

    Args:
      shapes: `progress -> tree of shapes and types` that the state must have.

    Raises:
      ValueError: it is of another run; or there are some, but none is whole.
    """
    found, damaged = self._found(), list[pathlib.Path]()
    for path in found:
      content = self._content(path)
      if isinstance(content, str):
        damaged.append(path)
        warnings.warn(
          f"checkpoint {str(path)!r} is damaged ({content}): not used",
          stacklevel=3,
        )
        continue
      self._check_identity(content["identity"])
      wanted = shapes(content["progress"])
      if content["arrays"] != _describe(wanted):
        raise ValueError(
          f"workdir={str(self._workdir)!r}: must be of this federation; arrays "
          f"of the checkpoint {path.name} differ in number, shape or type"
        )
      state = _load_arrays(path / _STATE, wanted)
      for other in damaged:
        os.replace(other, other.with_name(f"{other.name}.damaged"))
      return Checkpoint(content["round"], state, content["progress"])
    if damaged:
      raise ValueError(
        f"workdir={str(self._workdir)!r}: must have a checkpoint that is "
        f"whole, or be started anew (--restart, resume=False); damaged are "
        f"{', '.join(path.name for path in damaged)}"
      )
    return None

  def _content(self, path: pathlib.Path) -> dict[str, Any] | str:
    """A checkpoint's content without its arrays; if damaged, what is wrong."""
    try:
      _verify(path)
      with reading.placed(_PROGRESS):
        content = self._renamed(_CONTENT("", _read(path / _PROGRESS)))
        kinds.choice(_name(content["round"]))("round", path.name)
        return content
    except (OSError, ValueError, MemoryError) as error:
      return f"{type(error).__name__}: {error}"

  def _check_identity(self, other: Mapping[str, Any]) -> None:
    differ = differences(other, self._identity)
    if differ:
      raise refusal(self._workdir, "checkpoints", differ)


def lock(workdir: str | os.PathLike) -> filelock.BaseFileLock:
  """Locks a workdir for this run; the lock ends with the process.

  Raises:
    ValueError: another run holds the lock, or it is not a writable folder.
  """
  path = pathlib.Path(workdir) / ".lock"
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


def _checkpointer() -> Any:
  """One of this process alone: orbax would wait for all the others."""
  import orbax.checkpoint as ocp  # Takes seconds.

  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(here, {here}, f"process_{here}")
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _save_arrays(path: pathlib.Path, tree: Any) -> None:
  leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
  # Empty arrays cannot be saved, and need not be.
  arrays = {str(i): x for i, x in enumerate(leaves) if x.size}
  with _checkpointer() as checkpointer:
    checkpointer.save(path.resolve(), arrays)


def _load_arrays(path: pathlib.Path, shapes: Any) -> Any:
  with _checkpointer() as checkpointer:
    arrays = checkpointer.restore(path.resolve())
  leaves, structure = jax.tree.flatten(shapes)
  # Copies, since states in host memory are updated in place.
  return structure.unflatten(
    np.array(arrays[str(i)], x.dtype).reshape(x.shape)
    if np.prod(x.shape)
    else np.zeros(x.shape, x.dtype)
    for i, x in enumerate(leaves)
  )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: pathlib.Path) -> list[Any]:
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return [path.stat().st_size, digest]


def _sync(path: pathlib.Path) -> None:
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


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


def _verify(path: pathlib.Path) -> None:
  """Raises a ValueError unless every byte of every file is as it was written.

  Raises:
    OSError: a file that cannot be read.
  """
  with reading.placed(_MANIFEST):
    files = _MANIFEST_CONTENT("", _read(path / _MANIFEST))["files"]
  present = {str(file.relative_to(path)) for file in _files(path)}
  if present != {*files, _MANIFEST}:
    raise ValueError("files are missing, or there are others")
  for name, expected in files.items():
    if _digest(path / name) != expected:
      raise ValueError(f"{name} is not as it was written")


def _value(path: pathlib.Path) -> float | None:
  try:
    value = _CONTENT("", _read(path / _PROGRESS))["value"]
  except (OSError, ValueError, MemoryError):
    return None
  return None if value is None or math.isnan(value) else value
