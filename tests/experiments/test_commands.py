"""The commands, run as a user runs them."""

import csv
import json
import subprocess
import sys

import pytest

from tests.experiments.commands import ROOT, command, command_into

SHORT_RUN = (
  "federated",
  "--config.method=local",
  "--config.bits=32",
  "--config.clients=4",
  "--config.rounds=2",
  "--config.steps=2",
  "--config.checkpoint_every=1",
  "--config.figures=False",
)


@pytest.mark.slow
def test_federated_trains_mixed_precision_and_writes_its_results(tmp_path):
  given = (
    "federated",
    "--config=configs/digits.py",
    f"--workdir={tmp_path}",
    "--config.method=quped",
    "--config.bits=1,2,32",
    "--config.rounds=2",
    "--config.clients=6",
    "--config.quped.lambda_p=0.3",
  )
  done = command(*given)
  assert done.returncode == 0, done.stderr
  assert "quped: round 2/2" in done.stdout
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["bits"] == [1, 2, 32]
  assert config["quped"]["lambda_p"] == 0.3
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert set(summary["accuracy"]) == {"personalized", "quantized", "global"}
  with (tmp_path / "clients.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["bits"] for row in rows] == ["1", "2", "32"] * 2
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["round"] for line in lines] == [1, 2]

  done = command(*given, "--config.seed=7", "--config.method=fedavg")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert "(--restart" in line and "seed is 0 there and 7 here; data" in line
  assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.slow
def test_a_wrong_value_is_one_line_before_anything_is_written(tmp_path):
  workdir = tmp_path / "run"
  done = command("federated", f"--workdir={workdir}", "--config.bits=9")
  assert done.returncode == 2
  assert done.stderr.strip() == (
    "error: bits=9: must be from 1 to 8, or 32 for full precision"
  )
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("kind", "said"),
  [
    pytest.param("left", [], marks=pytest.mark.long),
    pytest.param(
      "full",
      ["warning: the standard output cannot be written ([Errno 28] No space "
       "left on device): some of it is lost"],
      marks=pytest.mark.slow,
    ),
  ],
)  # fmt: skip
def test_a_run_goes_on_without_its_output(kind, said, tmp_path):
  done = command_into(kind, *SHORT_RUN, f"--workdir={tmp_path}")
  assert done.returncode == 0 and done.stderr.splitlines() == said
  assert (tmp_path / "summary.json").is_file()
  checkpoints = (tmp_path / "checkpoints").iterdir()
  assert {x.name for x in checkpoints} >= {"round_00000002"}


@pytest.mark.long
def test_a_command_without_standard_files_runs_too(tmp_path):
  """Their numbers are not given to files, into which others would print."""
  module, *args = SHORT_RUN
  done = subprocess.run(
    f"exec {sys.executable} -m experiments.{module} {' '.join(args)} "
    f"--workdir={tmp_path} <&- >&- 2>&-",
    shell=True,
    cwd=ROOT,
    check=False,
  )
  assert done.returncode == 0
  assert (tmp_path / "summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("module", "flag"),
  [
    ("federated", "workdir"),
    pytest.param("centralized", "workdir", marks=pytest.mark.long),
    pytest.param("compare", "workdir", marks=pytest.mark.long),
    pytest.param("demo", "workdir", marks=pytest.mark.long),
    pytest.param("benchmark", "output", marks=pytest.mark.long),
  ],
)
@pytest.mark.parametrize("value", ["", "~nosuch/run"])
def test_a_path_that_is_none_is_one_line(module, flag, value):
  before = sorted(x.name for x in ROOT.iterdir())
  done = command(module, f"--{flag}={value}")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith(f"error: {flag}={value!r}: must ")
  assert sorted(x.name for x in ROOT.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
  "field",
  [
    "quped.mu",
    pytest.param("bitz", marks=pytest.mark.long),
    pytest.param("global_loss", marks=pytest.mark.long),
  ],
)
def test_an_unknown_field_is_one_line_too(tmp_path, field):
  done = command("federated", f"--workdir={tmp_path}", f"--config.{field}=1")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: --config has no such field")
  assert field.split(".")[-1] in line


@pytest.mark.slow
def test_a_config_that_is_not_there_is_one_line_that_names_those_that_are():
  done = command("federated", "--config=configs/digit.py", "--workdir=unused")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: --config='configs/digit.py': must be a file; ")
  assert "configs/digits.py" in line


@pytest.mark.long
def test_centralized_trains_quantizes_and_starts_warm(tmp_path):
  full, quantized = tmp_path / "full", tmp_path / "quantized"
  shared = ["--config=configs/centralized.py:digits", "--config.figures=False"]
  done = command(
    "centralized",
    *shared,
    f"--workdir={full}",
    "--config.bits=32",
    "--config.rounds=15",
    "--config.finetune_at=0",
  )
  assert done.returncode == 0, done.stderr
  once = json.loads((full / "one_shot.json").read_text())
  assert 0.9 < once["kmeans"]["4"] <= 1
  assert once["kmeans"]["2"] >= once["range"]["2"] - 0.02
  assert "\nkmeans " in done.stdout
  done = command(
    "centralized",
    *shared,
    f"--workdir={quantized}",
    "--config.bits=2",
    "--config.rounds=4",
    "--config.finetune_at=3",
    f"--config.warm_start={full / 'model.safetensors'}",
  )
  assert done.returncode == 0, done.stderr
  first = json.loads((quantized / "metrics.jsonl").read_text().splitlines()[0])
  # One epoch from fresh weights reaches about 50 %.
  assert first["test/personalized"] > 0.85
  summary = json.loads((quantized / "summary.json").read_text())
  accuracy = summary["accuracy"]
  assert accuracy["quantized"]["mean"] > 0.9
  # In the fine-tuning phase the model is the quantized one.
  assert accuracy["quantized"] == accuracy["personalized"]

  other = (
    "centralized",
    *shared,
    f"--workdir={full}",
    "--config.bits=32",
    "--config.rounds=1",
    "--config.finetune_at=0",
  )
  before = (full / "model.safetensors").read_bytes()
  done = command(*other)
  assert done.returncode == 2
  assert "rounds is 15 there and 1 here" in done.stderr
  assert (full / "model.safetensors").read_bytes() == before
  assert command(*other, "--restart").returncode == 0
  assert (full / "model.safetensors").read_bytes() != before


@pytest.mark.slow
def test_centralized_refuses_a_federation(tmp_path):
  done = command("centralized", f"--workdir={tmp_path}", "--config.clients=3")
  assert done.returncode == 2
  assert "clients=3: must be 1 for centralized training" in done.stderr


@pytest.mark.slow
def test_demo_prints_one_table_and_leaves_figures(tmp_path):
  done = command("demo", f"--workdir={tmp_path}", "--rounds=1")
  assert done.returncode == 0, done.stderr
  for title in ("local, 32 bits", "FedAvg", "QuPeD, 1 bit", "mixed bits"):
    assert title in done.stdout
  assert done.stdout.count("KB up") == 1
  assert (tmp_path / "accuracy.png").stat().st_size > 10_000
  for run in ("local", "fedavg", "quped_1bit", "quped_mixed"):
    assert (tmp_path / run / "summary.json").is_file()
    drawn = {path.stem for path in (tmp_path / run / "figures").iterdir()}
    assert {"accuracy_over_rounds", "accuracy_by_client"} <= drawn
    assert ("levels" in drawn) == run.startswith("quped")


@pytest.mark.long
def test_uneven_clients_by_flags(tmp_path):
  """Budgets, participation and states on disk are settings like all others."""
  done = command(
    "federated",
    "--config=configs/digits.py",
    f"--workdir={tmp_path}",
    "--config.method=local",
    "--config.budget_bytes=(6000,30000)",
    "--config.candidates=mlp(16,16), mlp(64,64)",
    "--config.bits=(1,32)",
    "--config.participation=(0.5,1.0)",
    "--config.stragglers=0.3",
    "--config.dropout=0.1",
    "--config.client_state=disk",
    "--config.figures=False",
    "--config.rounds=2",
    "--config.steps=3",
    "--config.clients=8",
  )
  assert done.returncode == 0, done.stderr
  client_types = json.loads((tmp_path / "summary.json").read_text())[
    "client_types"
  ]
  assert set(client_types) == {"mlp(16,16)@32", "mlp(64,64)@1"}
  assert "budgets allow: " in done.stdout
  for name, kind in client_types.items():
    assert f"{kind['clients']} x {name}" in done.stdout
    assert f"{name:20s} {kind['clients']:5d} clients" in done.stdout
  assert not (tmp_path / "clients").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "--config.client_types=3*lenet@1",
      "client_types='3*lenet@1': must add up to clients=8",
    ),
    ("--config.participation_trace=nope.csv", "participation_trace='nope.csv'"),
    pytest.param(
      "--config.client_types=8*lenet@1",
      "client_types='lenet': must be one of",
      marks=pytest.mark.long,
    ),
    pytest.param(
      "--config.budget_bytes=(10,)",
      "budget_bytes=10: must be at least",
      marks=pytest.mark.long,
    ),
  ],
)
def test_what_uneven_clients_cannot_be_is_one_line(flag, message, tmp_path):
  done = command(
    "federated",
    "--config=configs/digits.py",
    f"--workdir={tmp_path}",
    "--config.clients=8",
    flag,
  )
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ") and message in line
