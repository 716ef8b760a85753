"""Paths mean what users meant; files are written whole or not at all."""

import errno
import os
import pathlib
import pwd
import re
import stat
import threading

import pytest

from quped_jax import paths

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def homeless(monkeypatch):
  """As for a user that the system does not know."""

  def unknown(_):
    raise KeyError

  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
  ("path", "meant"),
  [
    ("~", "/home/me"),
    ("~/run", "/home/me/run"),
    (pathlib.Path("~/run"), "/home/me/run"),
    ("./~", "~"),
    ("a/~/b", "a/~/b"),
    ("run[1] *", "run[1] *"),
    (".", "."),
  ],
)
def test_a_tilde_at_the_beginning_is_the_home_folder(path, meant, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert paths.given("workdir", path) == pathlib.Path(meant)


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("", "workdir='': must not be empty"),
    ("~nosuch/run", "workdir='~nosuch/run': must be in the home folder of a"),
    ("a\0b", r"workdir='a\x00b': must be a path without NUL"),
    (3, "workdir=3: must be a path"),
    (None, "workdir=None: must be a path"),
  ],
)
def test_what_is_no_path_is_named(path, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    paths.given("workdir", path)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_an_environment_variable_is_asked_for(monkeypatch):
  with pytest.raises(ValueError, match="workdir='~': must be in the home"):
    paths.given("workdir", "~")
  with pytest.raises(ValueError, match="QUPED_X: must be set to a folder"):
    paths.default("QUPED_X", "~/x")
  monkeypatch.setenv("QUPED_X", "/data")
  assert paths.default("QUPED_X", "~/x") == pathlib.Path("/data")
  monkeypatch.setenv("QUPED_X", "~/x")
  with pytest.raises(ValueError, match="QUPED_X='~/x': must be in the home"):
    paths.default("QUPED_X", "~/x")


@pytest.mark.parametrize("name", ["file", "run[1]*", "x" * 255])
def test_a_file_is_replaced_when_the_new_one_is_on_disk(
  tmp_path, monkeypatch, name
):
  path = tmp_path / name
  path.write_text("old")
  seen, fsync = [], os.fsync

  def look(handle):
    fsync(handle)
    seen.append(path.read_text())

  monkeypatch.setattr(os, "fsync", look)
  with paths.replacing(path) as file:
    file.write(b"new")
  # The file's content before it is renamed, then the folder.
  assert seen == ["old", "new"]
  assert os.listdir(tmp_path) == [name]
  mask = os.umask(0)
  os.umask(mask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


class StopError(Exception):
  """Ends writing in these tests."""


@pytest.mark.parametrize("old", [None, "old"])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, old):
  path = tmp_path / "file"
  if old:
    path.write_text(old)
  with pytest.raises(StopError), paths.replacing(path) as file:
    file.write(b"ne")
    file.flush()
    raise StopError
  found = {x.name: x.read_text() for x in tmp_path.iterdir()}
  assert found == ({"file": old} if old else {})


def test_an_error_while_writing_names_the_file(tmp_path):
  path = tmp_path / "file"
  reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
  with (
    pytest.raises(OSError, match=f"No space.*: '{path}'"),
    paths.replacing(path),
  ):
    raise OSError(*reason)


def test_two_may_write_the_same_file_at_once(tmp_path):
  path = tmp_path / "file"
  with paths.replacing(path) as first, paths.replacing(path) as second:
    first.write(b"a" * 100)
    second.write(b"b" * 100)
  assert path.read_bytes() in (b"a" * 100, b"b" * 100)
  assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_one(tmp_path):
  (tmp_path / "there").mkdir()
  target, link = tmp_path / "there" / "file", tmp_path / "link"
  target.write_text("old")
  link.symlink_to(target)
  paths.replace_text(link, "né\n")
  assert link.is_symlink() and target.read_bytes() == "né\n".encode()


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
  pipe, read = tmp_path / "pipe", []
  os.mkfifo(pipe)
  reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
  reader.start()
  paths.replace_text(pipe, "text")
  reader.join()
  assert read == ["text"] and stat.S_ISFIFO(pipe.stat().st_mode)
  with pytest.raises(IsADirectoryError):
    paths.replace_text(tmp_path, "text")


def test_no_other_file_replaces_files_or_looks_for_homes():
  """These write anew, in folders that get their names when they are whole."""
  parts = {"quped_jax/files/checkpoint.py": ["write_text", "os.replace"]}
  pattern = re.compile(
    r"write_text|write_bytes|os\.replace|\.rename\(|expanduser|Path\.home"
    r"|open\([^)]*\"[wx]b?\"|savefig\(\w+ /|mkstemp|NamedTemporaryFile"
  )
  for folder in ("quped_jax", "experiments"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      name = path.relative_to(ROOT).as_posix()
      if name != "quped_jax/paths.py":
        found = set(pattern.findall(path.read_text()))
        assert found <= set(parts.get(name, ())), name


def test_a_file_that_is_read_is_not_replaced(tmp_path):
  model, link = tmp_path / "model", tmp_path / "link"
  model.write_text("kept")
  link.symlink_to(model)
  for path in (model, link):
    with pytest.raises(ValueError) as caught:
      paths.check_other("output", path, input=tmp_path / "none", model=model)
    assert str(caught.value) == (
      f"output={str(path)!r}: must be another file than model={str(model)!r}, "
      "which it would replace"
    )
  paths.check_other("output", tmp_path / "new", model=model)
