"""`export_model`: files of both formats, checked, or an error that says why."""

import sys

import jax
import numpy as np
import onnxruntime
import pytest

import quped_jax as qj
from quped_jax import export
from quped_jax.export import model_export
from tests.files.packed_files import (
  assert_close,
  info_of,
  samples_of,
  save_built_in,
)

INFO = info_of()


@pytest.fixture
def path(tmp_path):
  save_built_in(tmp_path / "m.safetensors", INFO)
  return tmp_path / "m.safetensors"


def test_each_format_is_a_function_of_samples(path, tmp_path):
  samples = samples_of(INFO, 2)
  expected = qj.load_packed(path).predict(samples)
  for name in model_export.FORMATS:
    output = tmp_path / f"m.{name}"
    done = qj.export_model(path, output, name, check=True)
    assert done.path == output and done.size == output.stat().st_size
    assert done.difference is not None and 0 <= done.difference <= 1e-5
  session = onnxruntime.InferenceSession(
    tmp_path / "m.onnx", providers=["CPUExecutionProvider"]
  )
  assert_close(session.run(None, {"inputs": samples})[0], expected)
  data = bytearray((tmp_path / "m.stablehlo").read_bytes())
  logits = jax.export.deserialize(data).call(samples)
  assert_close(np.asarray(logits), expected)


def test_a_model_in_memory_is_exported_too(path, tmp_path):
  files = [tmp_path / "a", tmp_path / "b"]
  for model, file in zip((path, qj.load_packed(path)), files, strict=True):
    assert qj.export_model(model, file, "onnx").difference is None
  assert files[0].read_bytes() == files[1].read_bytes()


def test_mistakes_are_named_and_nothing_is_written(path, tmp_path):
  qj.save_packed(tmp_path / "nameless", {"w": np.ones(2, np.float32)})
  before = sorted(tmp_path.iterdir())
  for model, output, name, message in (
    (
      path,
      tmp_path / "o",
      "tflite",
      "format='tflite': must be one of onnx, st",
    ),
    (path, path, "onnx", "output=.*: must be another file than model="),
    (
      tmp_path / "none",
      tmp_path / "o",
      "onnx",
      "model='.*none': must be a pac",
    ),
    (tmp_path / "nameless", tmp_path / "o", "onnx", "model='': must be the na"),
    (path, tmp_path / "no" / "o", "onnx", "output='.*o': must be a file that"),
    (path, "", "onnx", "output='': must not be empty"),
  ):
    with pytest.raises(ValueError, match=message):
      qj.export_model(model, output, name)
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(package, path, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  for name in ("onnx_graph", "onnx_file"):
    monkeypatch.delitem(sys.modules, f"quped_jax.export.{name}", raising=False)
    monkeypatch.delattr(export, name, raising=False)
  with pytest.raises(
    ImportError, match="format='onnx': needs the packages onn"
  ):
    qj.export_model(path, path.with_name("o"), "onnx")
  qj.export_model(path, path.with_name("o"), "stablehlo")
