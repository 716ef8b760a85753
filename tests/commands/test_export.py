"""The command `quped export`."""

import argparse
import pathlib

import pytest

from quped_jax.commands import export
from tests.files.packed_files import info_of, save_built_in


def run(*argv):
  parser = argparse.ArgumentParser()
  export.add_arguments(parser)
  export.run(parser.parse_args([str(x) for x in argv]))


@pytest.fixture
def path(tmp_path):
  save_built_in(tmp_path / "m.safetensors", info_of())
  return tmp_path / "m.safetensors"


def test_a_model_is_exported_beside_itself(path, capsys):
  run("--model", path, "--format=onnx")
  output = path.with_suffix(".onnx")
  size = output.stat().st_size
  assert capsys.readouterr().out == f"{output}: {size:,} bytes\n"


def test_it_says_how_far_it_was_checked(path, tmp_path, capsys):
  output = tmp_path / "o"
  run(
    *("--model", path, "--format=stablehlo", "--check"),
    *("--output", output),
  )
  said = capsys.readouterr().out
  assert said.startswith(f"{output}: {output.stat().st_size:,} bytes; its logi")
  assert float(said.rpartition(" ")[2]) <= 1e-5


def test_a_mistake_is_named(path):
  with pytest.raises(ValueError, match="model='nosuch': must be a packed mode"):
    run("--model=nosuch", "--format=onnx")
  assert export.SUMMARY and "\n" not in export.SUMMARY
  assert list(pathlib.Path(path).parent.iterdir()) == [path]
