"""`quped run`: settings from presets, files and names; dry runs; results."""

import csv
import json

import pytest

import quped_jax as qj
from quped_jax.commands import run
from quped_jax.experiment import presets
from tests.commands.quped import in_process, mistake, quped

SMALL = (
  "--clients=4",
  "--classes_per_client=4",
  "--hidden=16,16",
  "--batch_size=4",
  "--steps=2",
  "--rounds=2",
  "--bits=1,2,32",
)


@pytest.fixture
def asked(monkeypatch):
  """What `qj.run` was asked for, which runs nothing."""
  calls = []
  monkeypatch.setattr(
    run, "train", lambda settings, workdir, **how: calls.append(
      (settings, workdir, how)
    )
  )  # fmt: skip
  return calls


def test_settings_by_name_change_those_of_a_preset(asked):
  code = in_process(
    "run",
    "--preset=digits",
    "--bits=1,2",
    "--quped.lambda_p=0.3",
    "--workdir=w",
    "--restart",
    "--quiet",
  )
  assert code == 0
  values = presets.get("digits")
  values["quped"]["lambda_p"] = 0.3
  expected = qj.Settings.from_dict({**values, "bits": (1, 2)})
  assert asked == [(expected, "w", {"restart": True, "quiet": True})]


def test_settings_by_name_change_those_of_a_file(asked, tmp_path):
  path = tmp_path / "mine.toml"
  path.write_text("method = 'fedprox'\nsteps = 3\n[fedprox]\nmu = 0.5\n")
  assert in_process("run", f"--config={path}", "--steps=4") == 0
  expected = qj.Settings(method="fedprox", steps=4, fedprox={"mu": 0.5})
  assert asked == [(expected, None, {"restart": False, "quiet": False})]


def test_without_either_they_change_the_defaults(asked):
  assert in_process("run", "--dataset", "mnist", "--bits", "1,2,32") == 0
  assert asked[0][0] == qj.Settings(dataset="mnist", bits=(1, 2, 32))


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--dataset=mnits", "--dry-run"], "synthetic; did you mean 'mnist'?"),
    (["--method=fedavgg"], "; did you mean 'fedavg'?"),
    (["--model=cn1", "--dry-run"], "; did you mean 'cnn1'?"),
    (["--norm=l3"], "norm='l3': must be one of l1, l2"),
    (["--bits=9"], "bits=9: must be from 1 to 8, or 32 for full precision"),
    (["--preset=digit"], "; did you mean 'digits'?"),
    (["--preset=digits", "--config=a.py"], "config='a.py': must not be given "
     "beside preset='digits'"),
    (["--preset=compare_digits"], "preset='compare_digits': must be settings "
     "of a run; `quped compare` runs comparisons"),
    (["--num_processes=2"], "num_processes=2: must be 1 without"),
    (["--workdir=~nosuch/x", *SMALL], "workdir='~nosuch/x': must be in the"),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line(args, message, capsys):
  assert message in mistake(capsys, "run", *args)


def test_a_dry_run_says_what_the_run_will_be_and_writes_nothing(
  tmp_path, capsys
):
  workdir = tmp_path / "run"
  code = in_process("run", *SMALL, "--dry-run", f"--workdir={workdir}")
  assert code == 0 and not workdir.exists()
  text = capsys.readouterr().out
  assert text.startswith("quped on digits, mlp, 1, 2, 32 bits: 2 rounds of 2")
  for name in ("partition", "network", "a round", "memory", "strategy"):
    assert f"\n{name} " in text
  assert text.endswith("nothing was run\n")


def test_help_shows_groups_and_a_group(capsys):
  assert in_process("run", "--help") == 0
  text = capsys.readouterr().out
  assert "--workdir" in text and "\n  quantization " in text
  assert "--sharpness" not in text
  assert in_process("run", "--help=quantization") == 0
  assert "--sharpness=10.0" in capsys.readouterr().out
  assert "did you mean 'privacy'?" in mistake(capsys, "run", "--help=privcy")


@pytest.mark.slow
def test_a_run_leaves_its_results_resumes_and_is_not_replaced(tmp_path):
  given = ("run", *SMALL, "--workdir=results", "--quped.lambda_p=0.3")
  done = quped(*given, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert "quped: round 2/2" in done.stdout
  assert done.stdout.endswith("Results are in results\n")
  workdir = tmp_path / "results"
  config = json.loads((workdir / "config.json").read_text())
  assert (config["bits"], config["quped"]["lambda_p"]) == ([1, 2, 32], 0.3)
  with (workdir / "clients.csv").open() as file:
    assert [x["bits"] for x in csv.DictReader(file)] == ["1", "2", "32", "1"]

  done = quped(*given, "--seed=7", cwd=tmp_path)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert "(--restart" in line and "seed is 0 there and 7 here" in line
  # What a run leaves is a config file, with which it can be run again.
  done = quped(
    "run", "--config=results/config.json", "--workdir=again", "--quiet",
    cwd=tmp_path,
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("quped on digits") and "round 1" not in (
    done.stdout
  )  # fmt: skip
  for name in ("clients.csv", "metrics.jsonl"):
    first, second = (tmp_path / x / name for x in ("results", "again"))
    assert first.read_text() == second.read_text()


@pytest.mark.slow
def test_without_a_workdir_nothing_is_kept(tmp_path):
  done = quped("run", *SMALL, "--method=local", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("no results are kept; --workdir=DIR keeps them")
  assert "personalized" in done.stdout
  assert not list(tmp_path.iterdir())
