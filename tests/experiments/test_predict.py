"""The command `predict`."""

import numpy as np
import pytest

import quped_jax as qj
from tests.experiments.commands import command, command_into


@pytest.fixture
def packed(tmp_path):
  """A model file and a file of samples; the class is the index of the 1."""
  info = qj.ModelInfo("mlp", 3, (3,), options={"features": ()})
  params = {
    "last": {
      "kernel": np.eye(3, dtype=np.float32),
      "bias": np.zeros(3, np.float32),
    }
  }
  model, samples = tmp_path / "m.safetensors", tmp_path / "x.npy"
  qj.save_packed(model, params, {}, info, mean=1.0, std=2.0)
  np.save(samples, 2 * np.eye(3)[[2, 0, 1, 1]] + 1)
  return model, samples


def test_predict_runs_a_packed_model(packed, tmp_path):
  model, samples = packed
  done = command(
    "predict",
    f"--model={model}",
    f"--input={samples}",
    f"--output={tmp_path / 'logits.npy'}",
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ["2", "0", "1", "1"]
  logits = np.load(tmp_path / "logits.npy", allow_pickle=False)
  np.testing.assert_allclose(logits, np.eye(3)[[2, 0, 1, 1]])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "printed"),
  [
    (
      "values",
      ["-0.25 -0.25 0.25", "0.25 -0.25 -0.25", *2 * ["-0.25 0.25 -0.25"]],
    ),
    ("multi_label", ["0 0 1", "1 0 0", "0 1 0", "0 1 0"]),
  ],
)
def test_predict_prints_what_other_targets_are(kind, printed, packed):
  model, samples = packed
  if kind == "values":
    np.save(samples, np.load(samples) / 2)
  done = command(
    "predict", f"--model={model}", f"--input={samples}", f"--targets={kind}"
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == printed


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "code", "said"),
  [
    ("left", 0, ""),
    ("full", 1, "error: the standard output cannot be written ([Errno 28] No "
     "space left on device)\n"),
  ],
)  # fmt: skip
def test_predict_fails_if_its_output_is_lost(kind, code, said, packed):
  model, samples = packed
  done = command_into(kind, "predict", f"--model={model}", f"--input={samples}")
  assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "message"),
  [
    ("model", "must be a packed model file (it is damaged: "),
    ("samples", "inputs.shape=(4, 2): must be [samples, 3]"),
    ("file", "input='"),
    ("output", "/none/logits.npy': must be a file that can be written"),
  ],
)
def test_predict_says_in_one_line_what_is_wrong(kind, message, packed):
  model, samples = packed
  output = model.parent / ("none" if kind == "output" else ".") / "logits.npy"
  if kind == "model":
    model.write_bytes(model.read_bytes()[:-1] + b"x")
  elif kind == "samples":
    np.save(samples, np.zeros((4, 2)))
  elif kind == "file":
    np.save(samples, np.array([{}]), allow_pickle=True)
  done = command(
    "predict", f"--model={model}", f"--input={samples}", f"--output={output}"
  )
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ") and message in line
  assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("read", [0, 1], ids=["model", "input"])
def test_predict_replaces_no_file_that_it_reads(read, packed, tmp_path):
  """Neither under another name, nor through a link."""
  model, samples = packed
  before = packed[read].read_bytes()
  (tmp_path / "link").symlink_to(packed[read].name)
  (tmp_path / "folder").mkdir()
  output = tmp_path / "folder" / ".." / "link"
  done = command(
    "predict", f"--model={model}", f"--input={samples}", f"--output={output}"
  )
  assert done.returncode == 2 and not done.stdout
  assert packed[read].read_bytes() == before
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith(f"error: output={str(output)!r}: must be another file")
