"""The bytes of a packed file: intact, or refused."""

import errno
import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.files import container
from tests.files.packed_files import (
  build,
  info_of,
  measured,
  parts,
  refused,
  same_bits,
  variables_of,
)
from tests.hostile import cases, damaged


def test_the_tests_build_the_same_file_again(files):
  for data, _ in files[0]:
    assert build(*parts(data)) == data


def test_what_is_no_packed_file_is_refused(files, tmp_path):
  path = tmp_path / "model.safetensors"
  refused(path, "No such file")
  refused(tmp_path, "it is no regular file")
  refused("/dev/zero", "it is no regular file")
  qj.save_weights(path, *variables_of(info_of()))
  refused(path, "it has no checksum")
  for content in (b"", b"\0" * 7, b"\0" * 8, b"PK\3\4" * 50, b"\xff" * 64):
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("metadata", [{}, {"__metadata__": None}])
def test_a_checksum_elsewhere_makes_no_metadata(metadata, tmp_path):
  tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
  name = '{"sha256":"' + "0" * 64 + '"'
  text = json.dumps({**metadata, name: tensor}, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  data = bytearray(len(text).to_bytes(8, "little") + text + b"\0" * 4)
  container.seal(data)
  path = tmp_path / "model.safetensors"
  path.write_bytes(data)
  refused(path, "it has no metadata")


def test_a_long_header_is_not_read(tmp_path):
  path = tmp_path / "model.safetensors"
  size = 2**20 + 1
  path.write_bytes(size.to_bytes(8, "little") + b"{" * size)
  tracemalloc.start()
  refused(path, "its header has 1048577 bytes, more than 1048576")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**18


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_metadata_without_a_json_form_is_not_written(number, tmp_path):
  qj.register_model(
    "sloped",
    lambda classes, slope, **_: qj.create_model("mlp", classes),
  )
  info = info_of("sloped", options={"slope": number})
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match="not JSON compliant"):
    qj.save_packed(path, *variables_of(info), info)
  assert not path.exists()


@pytest.mark.parametrize(
  "text",
  [
    "",
    "null",
    "[]",
    "[" * 100_000,
    '{"sha256":"' + "0" * 64 + '","a":' + "[" * 100_000,
    '{"sha256":"' + "0" * 64 + '","format":1e999}',
    '{"sha256":"' + "0" * 64 + '","format":' + "9" * 5000 + "}",
    '{"sha256":"' + "0" * 64 + '","format":NaN}',
  ],
)
def test_metadata_that_is_no_json_of_ours_is_refused(text, files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, _, tensors = parts(files[0][0][0])
  path.write_bytes(build(header, text, tensors))
  refused(path)


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"old")

  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(ValueError, match="path=.*No space left on device"):
    qj.save_packed(path, *variables_of(info_of()), info_of())
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_folder_is_an_error(tmp_path):
  path = tmp_path / "none" / "model.safetensors"
  with pytest.raises(ValueError, match=r"path=.*none.*must be a file that can"):
    qj.save_packed(path, *variables_of(info_of()), info_of())


@given(data=st.data())
@cases(100)
def test_a_damaged_file_is_right_or_refused(files, data):
  good, path = files
  content, expected = data.draw(st.sampled_from(good))
  path.write_bytes(data.draw(damaged(content)))
  found = measured(path)
  if found is not None:
    assert path.read_bytes() == content and found.info == expected.info
    assert same_bits(found[1:], expected[1:])
