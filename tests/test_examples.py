"""What is in `examples` runs, and does what it says."""

import json
import pathlib
import re
import runpy
import sys
from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import METHODS

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  """Runs a script in an empty folder; returns its names and what it printed."""
  monkeypatch.chdir(tmp_path)
  # Other tests must not see what it registers.
  before = dict(METHODS)

  def run_script(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    made = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return made, capsys.readouterr().out

  yield run_script
  METHODS.clear()
  METHODS.update(before)


def test_the_quickstart_lists_every_example():
  page = (ROOT / "docs" / "quickstart.md").read_text()
  table = re.findall(r"^\| (`[^|]*) \|", page, re.M)
  listed = [name for cell in table for name in re.findall(r"`([^`]+)`", cell)]
  there = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
  assert sorted(listed) == sorted(there)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_linen.py", "train_nnx.py"])
def test_a_training_loop_ends_at_four_levels_that_do_as_well(name, run):
  _, printed = run(name)
  trained, stored = map(float, re.findall(r": (\d\.\d+)", printed))
  assert trained > 0.9 and stored > trained - 0.02
  levels = re.findall(r"\[(.*)\]", printed.replace("\n", " "))[0].split()
  assert len(levels) == 4


@pytest.mark.slow
def test_a_csv_of_ones_own_becomes_a_federation(run):
  made, printed = run("own_csv.py")
  assert made["federation"].num_clients == 6
  assert all(f"{name} " in printed for name in ("Ada", "Ben", "Cleo"))


@pytest.mark.slow
def test_arrays_of_ones_own_become_a_federation(run):
  made, _ = run("own_arrays.py")
  assert made["result"].summary["accuracy"]["quantized"]["mean"] > 0.6


@pytest.mark.long
def test_held_out_clients_are_reported(run):
  _, printed = run("held_out_clients.py")
  assert len(re.findall(r"(took part|held out): \d\d\.\d %", printed)) == 2


@pytest.mark.slow
def test_a_method_of_ones_own_reports_its_own_variant(run):
  made, _ = run("own_method.py")
  result = made["result"]
  assert result.summary["primary_variant"] == "mean"
  assert result.summary["bytes_up"] == 0
  # After the first round it is between the first weights and the newest.
  client = qj.client_state(result.state, 0)
  newest = client["learner"].params["first"]["kernel"]
  assert not np.allclose(client["mean"]["first"]["kernel"], newest)


@pytest.mark.slow
def test_a_loss_of_ones_own_is_minimised(run):
  made, _ = run("own_loss.py")
  logits = np.zeros((2, 10), np.float32)
  logits[0, 0] = 2.0
  first, second = np.log(np.exp(logits).sum(axis=1)) - [2.0, 0.0]
  loss = made["weighted"](logits, np.array([0, 1]))
  assert loss == pytest.approx((5 * first + second) / 6, rel=1e-5)


@pytest.mark.slow
def test_a_callback_of_ones_own_ends_a_run(run):
  made, printed = run("own_callback.py")
  summary = made["summary"]
  assert summary["rounds"] < 100
  assert "no better for 3 evaluations" in str(summary["stopped"])
  assert f"round {summary['rounds']}: " in printed


@pytest.mark.slow
def test_a_packed_model_is_read_to_the_same_outputs(run):
  made, printed = run("packed_model.py")
  assert "client_00000.safetensors" in printed and " 2 levels" in printed
  assert np.abs(made["outputs"] - made["logits"]).max() < 1e-4


@pytest.mark.slow
def test_values_of_a_setting_stand_side_by_side(run):
  few = ("--rounds=1", "--seeds=1")
  _, printed = run("try_values.py", "strength", "0", "0.1", *few)
  rows = [line.split(" | ") for line in printed.splitlines()[-2:]]
  assert [float(row[0]) for row in rows] == [0, 0.1]
  assert all(score.strip().endswith(" %") for row in rows for score in row[1:])


def test_the_notebook_has_no_outputs():
  for cell in json.loads(NOTEBOOK.read_text())["cells"]:
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.long
def test_the_notebook_runs_in_a_kernel(tmp_path, monkeypatch):
  nbclient = pytest.importorskip("nbclient", reason="Jupyter is not installed")
  nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  outputs = [
    output
    for cell in notebook.cells
    if cell.cell_type == "code"
    for output in cell.outputs
  ]
  # Nothing went wrong, nothing warned, and the figure is there.
  assert not [x for x in outputs if x.get("name") == "stderr"]
  assert [x for x in outputs if "image/png" in x.get("data", {})]
