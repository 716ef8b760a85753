"""Weights & Biases in offline mode, with its own client."""

import json
import time

import pytest

import quped_jax as qj
from tests.experiment.callbacks import told

wandb_internal_pb2 = pytest.importorskip(
  "wandb.proto.wandb_internal_pb2", reason="wandb is not installed"
)

_HEADER, _BLOCK = 7, 2**15


def records(path):
  """The records of an offline run: a log in LevelDB's format."""
  data, place, record = path.read_bytes(), _HEADER, b""
  while place < len(data):
    if _BLOCK - place % _BLOCK < _HEADER:
      place += _BLOCK - place % _BLOCK
      continue
    size = int.from_bytes(data[place + 4 : place + 6], "little")
    kind = data[place + 6]
    record += data[place + _HEADER : place + _HEADER + size]
    place += _HEADER + size
    # 1 is a whole record, 4 the last part of one.
    if kind in (1, 4):
      yield wandb_internal_pb2.Record.FromString(record)
      record = b""


def read(folder, runs=1):
  """The run, {step: metrics}, the summary and the exit codes, of all files.

  A process of wandb's writes them, and may do so after the run has ended.
  """
  for _ in range(600):
    found = _read(folder)
    if len(found[-1]) == runs:
      return found
    time.sleep(0.1)
  raise AssertionError(f"{folder}: not written to the end")


def _read(folder):
  run, history, summary, codes = None, {}, {}, []
  for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
    for record in records(path):
      kind = record.WhichOneof("record_type")
      if kind == "run":
        run = record.run
      elif kind == "history":
        found = {
          x.key or "/".join(x.nested_key): json.loads(x.value_json)
          for x in record.history.item
        }
        history[found["_step"]] = found
      elif kind == "summary":
        for x in record.summary.update:
          name = x.key or ".".join(x.nested_key)
          summary[name] = json.loads(x.value_json)
      elif kind == "exit":
        codes.append(record.exit.exit_code)
  return run, history, summary, codes


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
  monkeypatch.setenv("WANDB_SILENT", "true")
  for name in ("CONFIG", "CACHE", "DATA"):
    monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "of_wandb"))


def make(**options):
  return qj.callbacks.WandB("mine", mode="offline", **options)


@pytest.mark.slow
def test_a_run_has_its_config_metrics_and_summary(tmp_path):
  folder = tmp_path / "seed=1"
  folder.mkdir()
  told.play(make(group="all"), folder, range(1, 4), told.end())
  run, history, summary, codes = read(folder)
  assert run is not None
  assert (run.project, run.display_name) == ("mine", "seed=1")
  assert run.run_group == "all"
  config = {x.key: json.loads(x.value_json) for x in run.config.update}
  assert config["method"] == "quped" and config["quped"]["lambda_p"] > 0
  assert set(history) == {1, 2, 3}
  assert history[2]["test/quantized"] == 0.5
  assert history[2]["cost/bytes_up"] == 2e6
  assert summary["accuracy.quantized.mean"] == 0.5
  assert summary["reason"] == "finished" and codes == [0]


@pytest.mark.slow
def test_a_run_goes_on_under_its_id(tmp_path):
  told.play(make(), tmp_path, range(1, 3), told.end("interrupted"))
  run, _, _, codes = read(tmp_path)
  assert run is not None and codes == [1]
  told.play(make(), tmp_path, range(3, 5), told.end())
  again, history, _, codes = read(tmp_path, runs=2)
  assert again is not None and again.run_id == run.run_id
  assert set(history) == {1, 2, 3, 4} and codes == [1, 0]
