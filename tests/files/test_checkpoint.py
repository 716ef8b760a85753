"""Checkpoints that are whole are found again; others are not used."""

import errno
import linecache
import os
import pathlib
import random
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.files import checkpoint, orbax_arrays
from quped_jax.files.checkpoint import Checkpoints
from quped_jax.simulation import processes
from tests import tiny

STATE = {
  "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
  "none": np.zeros((0, 4), np.float32),
  "key": np.array([1, 2], np.uint32),
  "yes": np.array(True),
  "half": np.asarray(jnp.array([1.5, -0.0], jnp.bfloat16)),
}


def shapes(progress):
  del progress
  return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, STATE))


def saved(folder, rounds=(5,), keep=2, values=None, **identity):
  found = Checkpoints(folder, {"seed": 0, **identity}, keep)
  for i, round_ in enumerate(rounds):
    value = None if values is None else values[i]
    found.save(round_, STATE, {"history": [round_, float("nan")]}, value)
  return found


def latest(found):
  """The latest checkpoint, which must exist."""
  checkpoint = found.latest(shapes)
  assert checkpoint is not None
  return checkpoint


def names(folder):
  return sorted(x.name for x in (folder / "checkpoints").iterdir())


def test_what_is_saved_is_what_is_found(tmp_path):
  found = latest(saved(tmp_path))
  assert found.round == 5
  tiny.assert_same_bits(found.state, STATE)
  assert found.progress["history"][0] == 5
  assert Checkpoints(tmp_path / "other", {}).latest(shapes) is None
  # States in host memory are written in place.
  found.state["weights"][0] = 7.0


def test_the_latest_and_the_best_are_kept(tmp_path):
  values = [0.1, 0.9, 0.3, None, 0.5]
  saved(tmp_path, [1, 2, 3, 4, 5], values=values)
  assert names(tmp_path) == [f"round_0000000{i}" for i in (2, 4, 5)]
  other = tmp_path / "other"
  saved(other, [1, 2, 3], keep=1)
  assert names(other) == ["round_00000003"]


def every_file(folder):
  return sorted(x for x in folder.rglob("*") if x.is_file())


def test_a_flipped_bit_anywhere_gives_a_checkpoint_away(tmp_path):
  saved(tmp_path / "whole", [1, 2])
  newest = pathlib.Path("checkpoints") / "round_00000002"
  draw = random.Random(0)
  for file in every_file(tmp_path / "whole" / newest):
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "whole", damaged)
    path = damaged / file.relative_to(tmp_path / "whole")
    content = bytearray(path.read_bytes())
    if not content:
      shutil.rmtree(damaged)
      continue
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="round_00000002' is damaged"):
      found = latest(Checkpoints(damaged, {"seed": 0}))
    assert found.round == 1
    tiny.assert_same_bits(found.state, STATE)
    assert "round_00000002.damaged" in names(damaged)
    shutil.rmtree(damaged)


@pytest.mark.parametrize("how", ["cut", "gone", "more", "empty"])
def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path, how):
  found = saved(tmp_path, [1, 2])
  path = tmp_path / "checkpoints" / "round_00000002"
  file = max(every_file(path), key=lambda x: x.stat().st_size)
  if how == "cut":
    file.write_bytes(file.read_bytes()[:-1])
  elif how == "gone":
    file.unlink()
  elif how == "more":
    (path / "state" / "more").write_text("")
  else:
    shutil.rmtree(path)
    path.mkdir()
  with pytest.warns(UserWarning, match="is damaged") as warned:
    assert latest(found).round == 1
  # It points two calls up: in a run, to the line that asked to resume.
  line = linecache.getline(warned[0].filename, warned[0].lineno)
  assert "latest(found).round == 1" in line


def test_a_checkpoint_that_is_damaged_once_more_is_set_aside_too(tmp_path):
  found = saved(tmp_path, [1])
  for damage in ("first", "second"):
    found.save(2, STATE, {})
    progress = tmp_path / "checkpoints" / "round_00000002" / "progress.json"
    progress.write_text(damage)
    with pytest.warns(UserWarning, match="round_00000002' is damaged"):
      assert latest(found).round == 1
  assert names(tmp_path) == ["round_00000001", "round_00000002.damaged"]
  aside = tmp_path / "checkpoints" / "round_00000002.damaged"
  assert (aside / "progress.json").read_text() == "second"


def test_one_that_cannot_be_restored_is_not_used(tmp_path, monkeypatch):
  found = saved(tmp_path, [1])
  with monkeypatch.context() as patch:
    patch.setattr(orbax_arrays, "save", lambda path, _: path.mkdir())
    found.save(2, STATE, {})
  with pytest.warns(UserWarning, match=r"'.*02' is damaged \(\w+: ") as warned:
    assert latest(found).round == 1
  assert len(str(warned[0].message)) < 500
  assert names(tmp_path) == ["round_00000001", "round_00000002.damaged"]


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
  def lack(*_):
    raise MemoryError

  found = saved(tmp_path, [1, 2])
  monkeypatch.setattr(orbax_arrays, "_checkpointer", lack)
  with pytest.raises(MemoryError):
    found.latest(shapes)
  assert names(tmp_path) == ["round_00000001", "round_00000002"]


@pytest.mark.parametrize(
  "name", ["run[1]", "run [lr=0.1]", "*", "gs:", "größe", os.fsdecode(b"\xff")]
)
def test_any_name_of_a_workdir_will_do(tmp_path, name):
  folder = tmp_path / name
  found = latest(saved(folder))
  tiny.assert_same_bits(found.state, STATE)


def test_the_place_of_links_to_odd_workdirs_must_be_plain(
  tmp_path, monkeypatch
):
  odd = tmp_path / "[tmp]"
  odd.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(odd))
  with pytest.raises(OSError, match="TMPDIR='.*': must be of letters"):
    saved(tmp_path / "run[1]")
  saved(tmp_path / "run")


def test_if_none_is_whole_the_run_is_refused(tmp_path):
  found = saved(tmp_path)
  (tmp_path / "checkpoints" / "round_00000005" / "progress.json").unlink()
  with (
    pytest.warns(UserWarning, match="is damaged"),
    pytest.raises(ValueError, match=r"must have .* whole.*round_00000005"),
  ):
    found.latest(shapes)


def test_checkpoints_of_another_run_are_refused(tmp_path):
  saved(tmp_path, method="quped")
  other = Checkpoints(tmp_path, {"seed": 1, "method": "quped"})
  with pytest.raises(ValueError, match="seed is 0 there and 1 here$"):
    other.latest(shapes)
  same = Checkpoints(tmp_path, {"seed": 0, "method": "quped"})

  def another(progress):
    return {**shapes(progress), "key": jax.ShapeDtypeStruct((3,), np.uint32)}

  with pytest.raises(ValueError, match="must be of this federation"):
    same.latest(another)


def test_one_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
  found = saved(tmp_path, [1])

  def full(*_):
    raise RuntimeError("No space left on device")

  monkeypatch.setattr(shutil, "disk_usage", full)
  with pytest.raises(OSError, match="No space left"):
    found.save(2, STATE, {})
  assert names(tmp_path) == ["round_00000001"]
  assert latest(found).round == 1


def test_an_error_of_the_system_stays_what_it_is(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.EDQUOT, "Disk quota exceeded")

  monkeypatch.setattr(shutil, "disk_usage", full)
  with pytest.raises(OSError, match="Disk quota exceeded") as caught:
    Checkpoints(tmp_path, {}).save(2, STATE, {})
  assert caught.value.errno == errno.EDQUOT


def test_a_checkpoint_whose_value_cannot_be_read_is_not_the_best(tmp_path):
  found = saved(tmp_path, [1, 2], values=[0.9, 0.1], keep=1)
  broken = tmp_path / "checkpoints" / "round_00000001" / "progress.json"
  broken.write_text("{")
  found.save(3, STATE, {"history": []}, 0.5)
  assert names(tmp_path) == ["round_00000003"]


def test_a_disk_without_space_is_an_error_and_is_not_filled(
  tmp_path, monkeypatch
):
  found = saved(tmp_path, [1])
  (tmp_path / "checkpoints" / "round_00000002.part" / "state").mkdir(
    parents=True
  )
  with monkeypatch.context() as patch:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    patch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="1,048,576 bytes, of 1,048,6"):
      found.save(3, STATE, {})
  assert names(tmp_path) == ["round_00000001"]
  found.save(3, STATE, {"history": []})
  assert latest(found).round == 3


def test_a_workdir_in_use_is_refused(tmp_path):
  with (
    checkpoint.lock(tmp_path),
    pytest.raises(ValueError, match="workdir=.*: must not be in use"),
  ):
    begin = time.monotonic()
    try:
      checkpoint.lock(tmp_path)
    finally:
      # Without waiting for the other run.
      assert time.monotonic() - begin < 0.9
  with checkpoint.lock(tmp_path):
    pass


class Exchange:
  """Tells what another process says, after a number of values."""

  def __init__(self, *others):
    self.others = list(others)

  def __call__(self, value):
    return [value, self.others.pop(0)]


@pytest.mark.parametrize("when", [0, 1, 2])
def test_what_another_process_cannot_save_nobody_has(
  tmp_path, monkeypatch, when
):
  found = saved(tmp_path, [1])
  others = [[{}, ""] for _ in range(3)]
  others[when] = [None, "OSError: the disk is full"]
  monkeypatch.setattr(processes, "exchange", Exchange(*others))
  with pytest.raises(OSError, match="process 1: OSError: the disk is full"):
    found.save(2, STATE, {})
  # Only the last word may come too late.
  assert names(tmp_path)[0] == "round_00000001"
  assert not list(tmp_path.rglob("*.part"))


def test_processes_that_do_not_share_a_folder_save_nothing(
  tmp_path, monkeypatch
):
  found = saved(tmp_path, [1])
  others = [[{}, ""], [{"clients_00001/0.npy": [3, "abc"]}, ""]]
  monkeypatch.setattr(processes, "exchange", Exchange(*others, [None, ""]))
  with pytest.raises(OSError, match="clients_00001/0.npy is not here: proc"):
    found.save(2, STATE, {})
  assert names(tmp_path) == ["round_00000001"]
