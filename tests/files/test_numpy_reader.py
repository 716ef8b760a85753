"""The reader that needs NumPy alone reads what the library reads."""

import ast
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.files import numpy_networks, numpy_reader
from tests.files.packed_files import (
  assert_close,
  build,
  info_of,
  parts,
  same_bits,
  samples_of,
  save_built_in,
)
from tests.hostile import cases, damaged, read_or_refused

FILES = [pathlib.Path(str(x.__file__)) for x in (numpy_reader, numpy_networks)]
EARLIER = pathlib.Path(__file__)


def read(path):
  """What a file holds, or None if it is refused."""
  return read_or_refused(
    lambda: numpy_reader.read(path), f"path={str(path)!r}: must be a packed"
  )


def same(found, packed):
  return same_bits(found[1:], (packed.params, packed.stats, *packed[3:5]))


def test_it_reads_what_the_library_reads(files, tmp_path):
  path = tmp_path / "model.safetensors"
  for content, packed in files[0]:
    path.write_bytes(content)
    found = numpy_reader.read(path)
    assert same(found, packed), packed.info
    assert found.about == parts(content)[1]


def test_it_reads_arrays_of_every_type_and_of_no_network(tmp_path):
  types = ["bool", "float16", "bfloat16", "float32", "float64"]
  types += [f"{kind}{8 * n}" for kind in ("int", "uint") for n in (1, 2, 4, 8)]
  arrays = {name: np.arange(3).astype(jnp.dtype(name)) for name in types}
  params = {"a": arrays, "b": [np.float32(1.5), np.zeros((2, 0), np.int8)]}
  qj.save_packed(tmp_path / "m", params, mean=np.array([1, 2]), std=3)
  found = numpy_reader.read(tmp_path / "m")
  assert found.about["model"] is None and found.stats == {}
  assert found.params["a"].pop("bfloat16").tolist() == [0, 1, 2]
  arrays.pop("bfloat16")
  assert same_bits(found.params["a"], arrays)
  assert found.params["b"]["0"] == 1.5 and found.params["b"]["1"].shape == (
    2,
    0,
  )
  assert found.mean.tolist() == [1, 2] and found.std == 3


def test_a_bare_array_is_a_tree_too(tmp_path):
  qj.save_packed(tmp_path / "m", np.ones(3, np.float32))
  assert numpy_reader.read(tmp_path / "m").params.tolist() == [1, 1, 1]


def test_it_reads_earlier_formats_but_the_first():
  for number in (2, 3):
    path = EARLIER.with_name(f"format_{number}.safetensors")
    assert same(numpy_reader.read(path), qj.load_packed(path))
  path = EARLIER.with_name("format_1.safetensors")
  with pytest.raises(ValueError, match=r"its format is 1, none of \(2, 3, 4\)"):
    numpy_reader.read(path)


@given(data=st.data())
@cases(30)
def test_a_damaged_file_is_right_or_refused(files, data):
  content, packed = data.draw(st.sampled_from(files[0]))
  path = files[1].with_name("damaged.safetensors")
  path.write_bytes(data.draw(damaged(content)))
  found = read(path)
  assert found is None or same(found, packed)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda header, about: about.update(format=5), "its format is 5"),
    (lambda header, about: header.pop("inputs/mean"), "other bytes than its"),
    (
      lambda header, about: header["inputs/mean"].update(shape=[2]),
      "'inputs/mean' has other bytes than its type and shape say",
    ),
    (
      lambda header, about: (
        about["quantized"].clear()
        or about["quantized"].update({"params/x": {"bits": 2, "shape": [8, 8]}})
      ),
      "params/x.planes",
    ),
    (
      lambda header, about: about["quantized"]["params/hidden_1/kernel"].update(
        shape=[8, 9]
      ),
      r"its planes have the shape \(2, 8\)",
    ),
    (
      lambda header, about: about["quantized"]["params/hidden_1/kernel"].update(
        bits=3
      ),
      r"its planes have the shape \(2, 8\)",
    ),
  ],
)
def test_what_a_file_says_must_be_so(change, message, files, tmp_path):
  """With the right checksum: its maker can compute it."""
  header, about, tensors = parts(files[0][1][0])
  change(header, about)
  (tmp_path / "m").write_bytes(build(header, about, tensors))
  with pytest.raises(ValueError, match=message):
    numpy_reader.read(tmp_path / "m")


def test_bytes_that_belong_to_no_tensor_are_refused(files, tmp_path):
  header, about, tensors = parts(files[0][1][0])
  (tmp_path / "m").write_bytes(build(header, about, tensors + b"\0"))
  with pytest.raises(ValueError, match="it is longer than its tensors"):
    numpy_reader.read(tmp_path / "m")


ALONE = """
import sys
sys.path.insert(0, "")
import numpy as np
import numpy_networks, numpy_reader
packed = numpy_reader.read("model.safetensors")
np.save("logits.npy", numpy_networks.predict(packed, np.load("samples.npy")))
others = {name.partition(".")[0] for name in sys.modules}
assert not others & {"quped_jax", "jax", "flax", "ml_dtypes", "safetensors"}
"""


def test_two_copied_files_and_numpy_are_all_it_takes(tmp_path):
  info = info_of()
  samples, path = samples_of(info, 3), tmp_path / "model.safetensors"
  save_built_in(path, info)
  np.save(tmp_path / "samples.npy", samples)
  for file in FILES:
    shutil.copy(file, tmp_path)
  subprocess.run([sys.executable, "-I", "-c", ALONE], cwd=tmp_path, check=True)
  logits = np.load(tmp_path / "logits.npy")
  assert_close(logits, qj.load_packed(path).predict(samples))


def test_they_import_the_standard_library_and_numpy_alone():
  for file in FILES:
    for node in ast.walk(ast.parse(file.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      for name in names:
        first = name.partition(".")[0]
        assert first == "numpy" or first in sys.stdlib_module_names, file


def test_the_reader_has_less_than_a_hundred_lines():
  assert len(FILES[0].read_text().splitlines()) < 100


def test_levels_of_single_channels_are_read(tmp_path):
  params = {"kernel": np.array([[0.1, 9], [1, 4], [2, 6]], np.float32)}
  centers = jnp.array([[0.0, 2], [5, 8]])
  codebooks = {"kernel": qj.Codebook(centers, jnp.array([2, 2]))}
  qj.save_packed(tmp_path / "m", params, codebooks=codebooks)
  found = numpy_reader.read(tmp_path / "m").params
  assert found["kernel"].tolist() == [[0, 8], [0, 5], [2, 5]]
