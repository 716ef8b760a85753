"""A file that says something else than the library is found out."""

import pytest

import quped_jax as qj
from quped_jax.export import checked, onnx_file, stablehlo_file
from tests.files.packed_files import info_of, save_built_in

ENCODE = {"onnx": onnx_file.encode, "stablehlo": stablehlo_file.encode}


def packed_model(path, info):
  save_built_in(path, info)
  return qj.load_packed(path)


@pytest.mark.parametrize("format", ENCODE)
def test_a_model_is_told_from_one_that_differs_a_little(format, tmp_path):
  packed = packed_model(tmp_path / "m", info_of())
  data = ENCODE[format](packed)
  assert checked.difference(packed, format, data) <= 1e-5
  other = packed._replace(mean=packed.mean + 1e-4)
  with pytest.raises(
    ValueError, match=f"{format}: must have the library's log"
  ):
    checked.difference(other, format, data)


def test_other_logits_are_named(tmp_path):
  packed = packed_model(tmp_path / "m", info_of())
  info = qj.ModelInfo("mlp", 3, (6,), {"features": (8, 8)}, bits=2)
  data = onnx_file.encode(packed_model(tmp_path / "o", info))
  with pytest.raises(ValueError, match=r"logits \(1, 4\); it has \(1, 3\)"):
    checked.difference(packed, "onnx", data)


@pytest.mark.parametrize("format", ENCODE)
def test_a_network_of_bfloat16_may_round_more_where_it_does(format, tmp_path):
  packed = packed_model(tmp_path / "m", info_of(compute_dtype="bfloat16"))
  found = checked.difference(packed, format, ENCODE[format](packed))
  assert found <= (1e-5 if format == "onnx" else 2e-2)


def test_a_transformer_is_given_tokens(tmp_path):
  info = info_of("transformer", 4, options={"width": 8, "heads": 2})
  packed = packed_model(tmp_path / "m", info)
  data = onnx_file.encode(packed)
  assert checked.difference(packed, "onnx", data) <= 1e-5
