import os
import pickle
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.data import npy
from quped_jax.data.cache import cached, default_cache_dir, fingerprint
from tests.hostile import cases, damaged

ARRAYS = {"a": np.arange(1000, dtype=np.uint8), "b": np.eye(3, dtype=bool)}


def never():
  raise AssertionError("the cache was not used")


def check(arrays):
  assert set(arrays) == {"a", "b"}
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
    assert arrays[name].dtype == array.dtype


def test_makes_once(tmp_path):
  path = tmp_path / "deep" / "file.npz"
  check(cached(path, lambda: ARRAYS))
  check(cached(path, never))
  assert os.listdir(path.parent) == ["file.npz"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
  path = tmp_path / "file.npz"
  cached(path, lambda: ARRAYS)
  content = bytearray(path.read_bytes())
  middle = content.index(bytes(range(100, 110)))
  content[middle] ^= 1
  damaged = {
    "cut": content[:500],
    "flip": content,
    "empty": b"",
    "text": b"some text",
  }
  path.write_bytes(damaged[damage])
  with pytest.warns(UserWarning, match=r"file\.npz is damaged"):
    check(cached(path, lambda: ARRAYS))
  check(cached(path, never))


def test_a_mapped_file_is_read_where_it_is_used(tmp_path):
  path = tmp_path / "file.npz"
  for make in (lambda: ARRAYS, never):
    arrays = cached(path, make, mapped=True)
    check(arrays)
    assert all(type(array) is np.ndarray for array in arrays.values())
  # The arrays are the file.
  content = bytearray(path.read_bytes())
  content[content.index(bytes(range(100, 110)))] = 7
  with open(path, "r+b") as file:
    file.write(content)
  assert arrays["a"][100] == 7
  with pytest.raises(ValueError, match="read-only"):
    arrays["a"][0] = 1


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text", "zip"])
def test_a_mapped_file_of_another_shape_is_made_again(tmp_path, damage):
  path = tmp_path / "file.npz"
  cached(path, lambda: ARRAYS)
  content = path.read_bytes()
  np.savez_compressed(tmp_path / "zip.npz", **ARRAYS)
  damaged = {
    "cut": content[:500],
    "header": content.replace(b"(1000,)", b"(9999,)"),
    "empty": b"",
    "text": b"some text",
    "zip": (tmp_path / "zip.npz").read_bytes(),
  }
  path.write_bytes(damaged[damage])
  with pytest.warns(UserWarning, match=r"file\.npz is damaged"):
    check(cached(path, lambda: ARRAYS, mapped=True))


def test_goes_on_without_a_folder_to_write_to(tmp_path):
  (tmp_path / "file").touch()
  with pytest.warns(UserWarning, match="cache_dir='.*/file/in': cannot be"):
    check(cached(tmp_path / "file" / "in" / "a.npz", lambda: ARRAYS))
  with pytest.warns(UserWarning, match="cache_dir='.*/file/in': cannot be"):
    path = tmp_path / "file" / "in" / "a.npz"
    check(cached(path, lambda: ARRAYS, mapped=True))


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", interrupted)
  with pytest.raises(KeyboardInterrupt):
    cached(tmp_path / "a.npz", lambda: ARRAYS)
  assert os.listdir(tmp_path) == []


def test_fingerprint_sees_every_change(tmp_path):
  files = [tmp_path / "a", tmp_path / "b"]
  for path in files:
    path.write_text("one")
    os.utime(path, (1, 1))
  first = fingerprint(files)
  assert fingerprint(reversed(files)) == first
  assert fingerprint(files[:1]) != first
  os.utime(files[0], (1, 2))
  assert fingerprint(files) != first
  os.utime(files[0], (1, 1))
  assert fingerprint(files) == first
  files[0].write_text("longer")
  os.utime(files[0], (1, 1))
  assert fingerprint(files) != first


def test_a_cache_can_be_shared_as_other_files_can(tmp_path):
  path, other = tmp_path / "file.npz", tmp_path / "other"
  cached(path, lambda: ARRAYS)
  other.touch()
  assert path.stat().st_mode == other.stat().st_mode


def test_default_cache_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("QUPED_CACHE_DIR", "")
  assert default_cache_dir() == tmp_path / "quped_jax"
  monkeypatch.setenv("QUPED_CACHE_DIR", str(tmp_path / "mine"))
  assert default_cache_dir() == tmp_path / "mine"


def kind(arrays):
  """The check of a reader that knows what the arrays must be."""
  if {k: (x.dtype, x.shape) for k, x in arrays.items()} != {
    k: (x.dtype, x.shape) for k, x in ARRAYS.items()
  }:
    raise ValueError("they are of another kind")


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_of_another_name_is_made_again(tmp_path, mapped):
  """It is the cache of something else."""
  other = {"a": ARRAYS["a"] + 1, "b": ARRAYS["b"]}
  cached(tmp_path / "other.npz", lambda: other)
  shutil.copy(tmp_path / "other.npz", tmp_path / "file.npz")
  with pytest.warns(UserWarning, match="was stored under another name"):
    check(cached(tmp_path / "file.npz", lambda: ARRAYS, kind, mapped=mapped))
  check(cached(tmp_path / "file.npz", never, kind, mapped=mapped))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("other", ["absent", "more", "shape", "type"])
def test_a_file_of_other_arrays_is_made_again(tmp_path, other, mapped):
  changed = {
    "absent": {"a": ARRAYS["a"]},
    "more": {**ARRAYS, "c": np.zeros(1)},
    "shape": {**ARRAYS, "b": np.eye(4, dtype=bool)},
    "type": {**ARRAYS, "a": np.arange(1000, dtype=np.uint16)},
  }
  path = tmp_path / "file.npz"
  cached(path, lambda: changed[other])
  with pytest.warns(UserWarning, match=r"damaged \(they are of another kind"):
    check(cached(path, lambda: ARRAYS, kind, mapped=mapped))
  check(cached(path, never, kind, mapped=mapped))


def test_pickles_are_not_read(tmp_path):
  path = tmp_path / "file.npz"
  with zipfile.ZipFile(path, "w") as archive:
    with archive.open("a.npy", "w") as file:
      np.lib.format.write_array(file, np.array([{}]), allow_pickle=True)
    archive.writestr("b.npy", pickle.dumps({}))
  with pytest.warns(UserWarning, match=r"file\.npz is damaged"):
    check(cached(path, lambda: ARRAYS, kind))


@st.composite
def archives(draw):
  """Members of an archive, some of them as they should be."""
  names = st.sampled_from(["a.npy", "b.npy", "name of this file.npy", "c", "/"])
  arrays = st.sampled_from(
    [*ARRAYS.values(), np.frombuffer(b"hostile.npz", np.uint8)]
    + [np.zeros(0), np.array("text"), np.ones((3, 3)), np.arange(9)]
  )
  return draw(st.lists(st.tuples(names, arrays), max_size=5))


@given(data=st.data(), mapped=st.booleans())
@cases(30)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_cache_is_right_or_made_again(data, mapped, tmp_path_factory):
  folder = tmp_path_factory.getbasetemp() / "caches"
  path = folder / "hostile.npz"
  folder.mkdir(exist_ok=True)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    path.unlink(missing_ok=True)
    cached(path, lambda: ARRAYS, kind)
    if data.draw(st.booleans()):
      path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
      with zipfile.ZipFile(path, "w") as archive:
        for name, array in data.draw(archives()):
          with archive.open(name, "w") as file:
            np.lib.format.write_array(file, array)
    found = cached(path, lambda: ARRAYS, kind, mapped=mapped)
  if mapped:  # Then bytes of the arrays are not checked.
    kind(found)
  else:
    check(found)


def test_a_member_that_is_larger_than_its_archive_is_refused(tmp_path):
  path = tmp_path / "file.npz"
  np.savez(path, a=np.zeros(10))
  content = path.read_bytes()
  path.write_bytes(content.replace(b"(10,)", b"(99,)"))
  for checked in (False, True):
    with pytest.raises(ValueError, match="bytes|CRC"):
      npy.map_archive(path, checked=checked)
