"""ONNX files say what the library says, and are as small as packed ones."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

import quped_jax as qj
from quped_jax.export import onnx_file
from tests.files.packed_files import (
  BUILT_IN,
  FOLLOWED,
  assert_close,
  info_of,
  samples_of,
  save_built_in,
  variables_of,
)


def exported(path, info):
  """A packed model, its ONNX file, and a function of samples."""
  save_built_in(path, info)
  packed = qj.load_packed(path)
  data = onnx_file.encode(packed)
  session = onnxruntime.InferenceSession(
    data, providers=["CPUExecutionProvider"]
  )
  return packed, data, lambda x: session.run(["logits"], {"inputs": x})[0]


@pytest.mark.parametrize("info", BUILT_IN, ids=lambda info: info.model)
def test_logits_are_the_librarys(info, tmp_path):
  packed, _, run = exported(tmp_path / "m", info)
  for count in (1, 5):
    samples = samples_of(info, count)
    expected = packed.predict(samples, batch_size=5)
    assert_close(run(samples), expected)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_weights_of_any_precision_are_unpacked(bits, tmp_path):
  """Also of more weights than there are in whole bytes."""
  info = info_of(shape=(1,), bits=bits, options={"features": (5, 7)})
  packed, data, run = exported(tmp_path / "m", info)
  assert_close(run(samples_of(info, 3)), packed.predict(samples_of(info, 3)))
  names = [x.name for x in onnx.load_from_string(data).graph.initializer]
  assert "params/hidden_1/kernel.planes" in names
  assert "params/hidden_1/kernel" not in names


@pytest.mark.parametrize(
  ("info", "most"),
  [
    (qj.ModelInfo("cnn1", 10, (28, 28, 1), bits=2), 1.01),
    (qj.ModelInfo("mlp", 10, (64,), bits=1), 1.1),
  ],
  ids=lambda x: getattr(x, "model", None),
)
def test_a_file_is_about_as_small_as_a_packed_one(info, most, tmp_path):
  path = tmp_path / "m"
  qj.save_packed(path, *variables_of(info), info)
  size = len(onnx_file.encode(qj.load_packed(path)))
  assert size <= most * path.stat().st_size


def test_a_file_describes_itself(tmp_path):
  info = info_of(dataset="digits", client=3)
  _, data, _ = exported(tmp_path / "m", info)
  model = onnx.load_from_string(data)
  about = json.loads(model.metadata_props[0].value)
  assert (about["dataset"], about["client"]) == ("digits", 3)
  assert model.producer_name == "quped_jax"
  assert model.opset_import[0].version == 18
  (inputs,), (logits,) = model.graph.input, model.graph.output
  for value, name, width in ((inputs, "inputs", 6), (logits, "logits", 4)):
    batch, size = value.type.tensor_type.shape.dim
    assert (value.name, batch.dim_param) == (name, "batch")
    assert size.dim_value == width


def test_of_two_networks_the_layer_without_use_is_left_out(tmp_path):
  _, data, _ = exported(tmp_path / "m", FOLLOWED)
  names = {x.name for x in onnx.load_from_string(data).graph.initializer}
  assert "params/client/first/kernel" in names
  assert not any(name.startswith("params/client/last") for name in names)


def test_a_network_that_is_not_known_is_refused_by_name(tmp_path):
  info = info_of("normed")
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  with pytest.raises(ValueError, match="model='normed': must be one of mlp, c"):
    onnx_file.encode(qj.load_packed(tmp_path / "m"))


def test_a_network_of_bfloat16_is_exported_in_float32(tmp_path):
  info = info_of(compute_dtype="bfloat16")
  packed, _, run = exported(tmp_path / "m", info)
  samples = samples_of(info, 3)
  exact = packed._replace(info=info_of()).predict(samples)
  assert_close(run(samples), exact)
  assert np.abs(packed.predict(samples) - exact).max() > 1e-4
