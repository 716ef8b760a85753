"""Safetensors files: nothing is read that their headers do not justify."""

import json
import os
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy

import quped_jax as qj
from quped_jax.files import tensors
from tests.files.packed_files import build, info_of, parts, refused

SPARSE = 2**30  # Bytes of which next to none are on disk.


def written(path, header, size):
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text)
  os.truncate(path, 8 + len(text) + size)


def entry(begin, end, dtype="U8", **changes):
  shape = [end - begin]
  return {
    "dtype": dtype,
    "shape": shape,
    "data_offsets": [begin, end],
    **changes,
  }


def understood(path):
  with tensors.opened(path) as file:
    return tensors.read(file)


@pytest.mark.parametrize("larger", ["file", "tensor"])
@pytest.mark.parametrize("kind", ["packed", "weights"])
def test_a_sparse_file_is_refused_by_its_header(kind, larger, files, tmp_path):
  """1 GB, of which the header says nothing, or that it is one tensor."""
  path = tmp_path / "model.safetensors"
  header, about, data = parts(files[0][1][0])
  if larger == "tensor":
    n = (SPARSE - len(data)) // 4
    end = len(data) + 4 * n
    header["params/more"] = entry(len(data), end, "F32", shape=[n])
  content = build(header, about, data)
  path.write_bytes(content)
  os.truncate(path, len(content) - len(data) + SPARSE)
  message = "its tensors end at" if larger == "file" else "'params/more'"
  model = qj.create_model("mlp", 4, features=(8, 8))
  like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 6)))
  tracemalloc.start()
  if kind == "packed":
    refused(path, message)
  else:
    message = "its tensors end" if larger == "file" else "must have shape"
    with pytest.raises(ValueError, match=f"warm_start=.*{message}"):
      qj.load_weights(path, *like)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**21


def test_a_file_that_is_larger_than_all_memory_is_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 1
  path.write_bytes(b"")
  os.truncate(path, size)
  refused(path, f"it takes {size:,} bytes, and this machine has {size - 1:,}")


def test_tensors_come_back_as_safetensors_wrote_them(tmp_path):
  path = tmp_path / "any.safetensors"
  saved = {
    "a": np.arange(6, dtype=np.int16).reshape(2, 3),
    "b": np.zeros((0, 3)),
    "c": np.array(1.5, np.float32),
    "d": np.array([True, False]),
  }
  safetensors.numpy.save_file(saved, path, {"about": "text"})
  found = understood(path)
  assert found.keys() == saved.keys()
  for name, x in saved.items():
    assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
    np.testing.assert_array_equal(found[name], x)
  with tensors.opened(path) as file:
    assert file.metadata == {"about": "text"}


@pytest.mark.parametrize(
  ("header", "message"),
  [
    ({"a": entry(0, 8), "b": entry(4, 16)}, "'b': must begin at 8"),
    ({"a": entry(0, 4), "b": entry(8, 16)}, "'b': must begin at 4"),
    ({"a": entry(4, 16)}, "'a': must begin at 0"),
    ({"a": entry(0, 12)}, "its tensors end at 12 of 16 bytes"),
    ({"a": entry(0, 20)}, "its tensors end at 20 of 16 bytes"),
    ({"a": entry(0, 16, shape=[15])}, "two ends of a tensor of its type"),
    ({"a": entry(0, 16, "F32")}, "two ends of a tensor of its type"),
    ({"a": entry(0, 16, data_offsets=[0])}, "two ends of a tensor"),
    ({"a": entry(0, 16, data_offsets=[False, 16])}, "a.data_offsets.0.=False"),
    ({"a": entry(0, 16, shape=[16.0])}, "a.shape.0.=16.0: must be a whole"),
    ({"a": entry(0, 16, shape=[-1, -16])}, "a.shape.0.=-1: must be a whole"),
    ({"a": entry(0, 16, "F4")}, "a.dtype='F4': must be one of BOOL"),
    ({"a": entry(0, 16, more=1)}, "a.more: must not be given"),
    ({"a": 3}, "a=3: must be an object"),
    ({"a": entry(0, 16), "__metadata__": {"a": 1}}, "__metadata__.a=1: must"),
    ([], "must be an object"),
  ],
)
def test_a_header_says_where_each_byte_belongs(header, message, tmp_path):
  path = tmp_path / "any.safetensors"
  written(path, header, 16)
  with pytest.raises(ValueError, match=f"is no safetensors file: .*{message}"):
    understood(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
  path = tmp_path / "any.safetensors"
  written(path, {"a": entry(0, 2**20)}, 2**20)
  with tensors.opened(path) as file:
    os.truncate(path, 2**19)
    with pytest.raises(ValueError, match="it has become shorter"):
      tensors.read(file)


def test_a_type_that_safetensors_has_not_is_an_error():
  kernel = np.zeros(3, np.complex128)
  with pytest.raises(ValueError, match="dtype=complex128: must be one of BOOL"):
    tensors.kind_of(kernel)
  info = info_of(options={"features": ()}, bits=32)
  params = {"last": {"kernel": kernel, "bias": kernel}}
  with pytest.raises(ValueError, match="dtype=complex128: must be one of"):
    qj.save_packed("unused", params, {}, info)
