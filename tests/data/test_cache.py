import os

import numpy as np
import pytest

from quped_jax.data.cache import cached, default_cache_dir, fingerprint

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


def test_default_cache_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("QUPED_CACHE_DIR", "")
  assert default_cache_dir() == tmp_path / "quped_jax"
  monkeypatch.setenv("QUPED_CACHE_DIR", str(tmp_path / "mine"))
  assert default_cache_dir() == tmp_path / "mine"
