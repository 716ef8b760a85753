"""Arrays in files: read as they are, or refused."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.data import npy
from tests.hostile import cases, damaged, read_or_refused


def written(path, array):
  with open(path, "wb") as file:
    np.lib.format.write_array(file, array, allow_pickle=False)
  return path.read_bytes()


def with_header(path, text, size=0, version=(1, 0)):
  """A file with that text as its header, and zeros behind it."""
  line = text.encode("latin1") + b"\n"
  length = struct.pack("<H" if version == (1, 0) else "<I", len(line))
  path.write_bytes(b"\x93NUMPY" + bytes(version) + length + line)
  os.truncate(path, path.stat().st_size + size)


def header(descr, shape):
  return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
  "array",
  [
    np.arange(6, dtype=np.float64).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    np.zeros((0, 3), np.float32),
    np.array(2.5),
    np.array([True, False]),
    np.arange(3, dtype=">i4"),
  ],
  ids=str,
)
def test_an_array_comes_back_as_it_was(array, tmp_path):
  written(tmp_path / "x.npy", array)
  for mapped in (False, True):
    found = npy.load_npy("input", tmp_path / "x.npy", mapped=mapped)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.writeable is not mapped or not array.size


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("(" * 3000 + ")" * 3000, "."),
    ("(" * 9000 + ")" * 9000, "."),
    ("{" * 3000, "."),
    ("", "."),
    ("[1]", "."),
    (header("<f4", "(4,)"), "asks for 16 bytes"),
    (header("<f4", "(2**61, 8)"), "Header|header"),
    (header("<f4", f"({2**62},)"), f"asks for {2**64} bytes"),
    (header("<f4", "(-1, -4)"), r"its shape is \(-1, -4\)"),
    (header("<f4", "(True,)"), r"its shape is \(True,\)"),
    (header("|O", "(1,)"), "type is object"),
    (header("<U0", "(9,)"), "type is <U0"),
    (header("<f4", "(1,)").replace("'<f4'", "3"), "."),
  ],
)
def test_a_header_that_cannot_be_is_refused(text, reason, tmp_path):
  path = tmp_path / "x.npy"
  for version in ((1, 0), (2, 0)):
    with_header(path, text, version=version)
    with pytest.raises(
      ValueError, match=f"input='.*must be a .npy file of numbers .*{reason}"
    ):
      npy.load_npy("input", path)


def test_no_more_is_allocated_than_the_file_has(tmp_path):
  path = tmp_path / "x.npy"
  with_header(path, header("<f4", f"({2**34},)"), size=2**20)
  tracemalloc.start()
  with pytest.raises(ValueError, match="asks for 68719476736 bytes"):
    npy.load_npy("input", path)
  with_header(
    path, header("<f4", f"({2**28},)"), size=2**30
  )  # Sparse, and as it says.
  assert npy.load_npy("input", path, mapped=True).shape == (2**28,)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**20


def test_a_second_array_is_not_dropped(tmp_path):
  path = tmp_path / "x.npy"
  with open(path, "wb") as file:
    np.save(file, np.zeros(3))
    np.save(file, np.ones(3))
  with pytest.raises(ValueError, match="it has 304 bytes, and 152 by header"):
    npy.load_npy("input", path)


def test_what_is_no_regular_file_is_refused(tmp_path):
  """A pipe would be waited for, and a device read for ever."""
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
    with pytest.raises(ValueError, match="it is no regular file"):
      npy.load_npy("input", path)
  with pytest.raises(FileNotFoundError):
    npy.load_npy("input", tmp_path / "none.npy")


HEADERS = st.fixed_dictionaries(
  {},
  optional={
    "descr": st.sampled_from(
      ["<f4", ">f8", "|b1", "|O", "<U3", "|V0", "x", 3, [("a", "<f4")], None]
    ),
    "fortran_order": st.sampled_from([True, False, 0, "x"]),
    "shape": st.one_of(
      st.lists(st.integers(-2, 9), max_size=3).map(tuple),
      st.sampled_from([(2**62, 4), (2**64,), (1.0,), [2], 3, None, (True, 6)]),
    ),
    "more": st.none(),
  },
)


@given(data=st.data())
@cases(50)
def test_a_hostile_npy_file_is_right_or_refused(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / "hostile.npy"
  good = np.arange(6, dtype=np.float32).reshape(2, 3)
  content = written(path, good)
  if data.draw(st.booleans()):
    path.write_bytes(data.draw(damaged(content)))
  else:
    with_header(path, repr(data.draw(HEADERS)), data.draw(st.integers(0, 99)))
  found = read_or_refused(
    lambda: npy.load_npy("input", path), f"input={str(path)!r}: must be a .npy"
  )
  if found is not None:
    # NumPy's own reader says the same.
    with open(path, "rb") as file:
      same = np.lib.format.read_array(file, allow_pickle=False)
    assert found.tobytes() == same.tobytes() and found.shape == same.shape
