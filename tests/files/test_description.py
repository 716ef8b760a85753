"""What packed files say of their models, in this format and in earlier ones."""

import pathlib

import numpy as np
import pytest

import quped_jax as qj
from tests.files.packed_files import build, parts, refused, same_bits

# By the versions that had these formats.
EARLIER = pathlib.Path(__file__)


def test_another_format_is_named(files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][0][0])
  for number in (5, 0, 1.0, True, "2", None):
    path.write_bytes(build(header, {**about, "format": number}, tensors))
    refused(
      path, f"its format is {number!r}, and not 1, 2, 3 or 4, those that are"
    )
  # The library's version is only for human readers.
  path.write_bytes(build(header, {**about, "library": "9.9"}, tensors))
  qj.load_packed(path)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_file_of_an_earlier_format_is_read(number):
  """As it was written by the version that had this format."""
  path = EARLIER.with_name(f"format_{number}.safetensors")
  assert parts(path.read_bytes())[1]["format"] == number

  def ramp(*shape):
    return (np.arange(np.prod(shape), dtype=np.float32) - 7).reshape(shape) / 8

  levels = np.array([-0.5, -0.0, 0.25, 1.5], np.float32)
  packed = qj.load_packed(path)
  assert packed.info == qj.ModelInfo(
    *("mlp", 3, (3,), {"features": (5, 4)}),
    bits=2 if number == 1 else {"hidden_1/*": 2},
    dataset="digits",
    method="quped",
    client=7,
    variant="personalized" if number == 1 else "quantized",
  )
  expected = {
    "first": {"kernel": ramp(3, 5), "bias": ramp(5)},
    "hidden_1": {
      "kernel": levels[(np.arange(20) * 7 % 4).reshape(5, 4)],
      "bias": ramp(4),
    },
    "last": {"kernel": ramp(4, 3), "bias": ramp(3)},
  }
  assert same_bits((packed.params, packed.stats), (expected, {}))
  assert packed.mean == np.float32(0.5)
  np.testing.assert_array_equal(packed.std, [1, 2, 4])


def test_an_earlier_format_says_only_what_it_said(tmp_path):
  path = tmp_path / "model.safetensors"
  for number, changes, message in (
    (1, {"quantized": {}}, "its metadata is not of"),
    (1, {"bits": {"*": 2}}, "bits: must be one number in format 1"),
    (1, {"format": 2}, "its metadata is not of"),
    (2, {"back": None}, "its metadata is not of"),
    (2, {"format": 3}, "its metadata is not of"),
    (3, {"model": None}, "model=None: must be text"),
    (4, {"model": None}, "its metadata is not of format, library, model, q"),
  ):
    # What follows does not differ between these two.
    changes = {"format": number, **changes}
    source = EARLIER.with_name(f"format_{min(number, 3)}.safetensors")
    header, about, tensors = parts(source.read_bytes())
    path.write_bytes(build(header, {**about, **changes}, tensors))
    refused(path, message)
