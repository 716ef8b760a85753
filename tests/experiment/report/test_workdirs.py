"""What is read of workdirs, and what is refused."""

import json
import os

import pytest

from quped_jax.experiment import scores
from quped_jax.experiment.report import workdirs
from tests.experiment.report import made


def test_a_finished_run(tmp_path):
  folder = made.run(tmp_path / "run", clients=5, rounds=3)
  run = made.read(folder)
  assert run.name == "run" and run.folder == folder
  assert run.title == "QuPeD, 1, 32 bits"
  assert run.summary is not None
  assert run.summary["clients"] == len(run.clients) == 5
  assert run.last_round() == 3
  assert run.variants == ["quantized", "personalized", "global"]
  assert run.score == scores.ACCURACY


def test_a_run_that_is_not_finished(tmp_path):
  folder = made.run(tmp_path / "run", finished=False, loss="squared_error")
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"round": 5, "los')  # It was killed while it wrote.
  run = made.read(folder)
  assert run.summary is None and run.clients == []
  assert run.last_round() == 4
  assert run.title == "QuPeD, 1, 32 bits"
  assert run.variants[0] == "quantized"
  assert run.score == scores.R2


@pytest.mark.parametrize(
  ("said", "score"),
  [("values", scores.R2), (made.HOSTILE, scores.ACCURACY)],
)
def test_the_score_of_a_loss_that_is_a_function(tmp_path, said, score):
  folder = made.run(tmp_path / "run", finished=False)
  path = folder / "identity.json"
  known = json.loads(path.read_text())
  made.write(path, {**known, "targets of the loss function": said})
  assert made.read(folder).score == score


def test_a_run_that_has_just_begun(tmp_path):
  folder = made.run(tmp_path / "run", finished=False, rounds=1)
  (folder / "metrics.jsonl").unlink()
  run = made.read(folder)
  assert run.last_round() == 0 and run.variants == []


def test_former_names_are_read_as_the_present_ones(tmp_path):
  folder = made.run(tmp_path / "run")
  for name, former in (("config", "new_clients"), ("summary", "new_clients")):
    path = folder / f"{name}.json"
    path.write_text(path.read_text().replace("held_out_clients", former))
  run = made.read(folder)
  assert run.settings["held_out_clients"] == 0
  assert run.summary is not None
  assert run.summary["held_out_clients"] == {}


def test_a_comparison_has_its_table_and_runs(tmp_path):
  folder = made.comparison(tmp_path)
  (folder / "b.png").write_bytes(b"")
  (folder / "b.svg").write_text("<svg/>")
  (folder / "a.png").write_bytes(b"")
  found = made.read_comparison(folder)
  assert [row["method"] for row in found.rows] == ["quped", made.HOSTILE]
  assert [run.name for run in found.runs] == ["local_1_seed0", "quped_1_seed0"]
  assert [path.name for path in found.figures] == ["a.png", "b.svg"]


def test_a_sweep_is_its_runs(tmp_path):
  made.run(tmp_path / "seed=0")
  made.run(tmp_path / "seed=1", finished=False)
  entries = [{"folder": f"seed={i}", "changes": {}} for i in range(3)]
  made.write(tmp_path / "sweep.json", entries)
  # The third did not begin.
  found = workdirs.read([tmp_path])
  assert [run.name for run in found] == ["seed=0", "seed=1"]


def test_names_have_as_many_folders_as_differ(tmp_path):
  for name in ("a/run", "b/run", "other"):
    made.run(tmp_path / name)
  found = workdirs.read([tmp_path / x for x in ("a/run", "b/run", "other")])
  names = [os.path.join("a", "run"), os.path.join("b", "run"), "other"]
  assert [run.name for run in found] == names


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(made.run(tmp_path / "run"))
  assert workdirs.read(["."])[0].name == "run"


def test_a_folder_of_runs_is_refused_with_their_names(tmp_path):
  first, second = (made.run(tmp_path / name) for name in ("a", "b"))
  with pytest.raises(
    ValueError, match=f"; there are runs in {first}, {second}$"
  ):
    workdirs.read([tmp_path])


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match="^workdirs='.*': must be the work dir"):
    workdirs.read([tmp_path])
  with pytest.raises(ValueError, match="^workdirs='.*none'"):
    workdirs.read([tmp_path / "none"])


def test_a_folder_that_is_given_twice_is_refused(tmp_path, monkeypatch):
  folder = made.run(tmp_path / "run")
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match="'run': must be given only once"):
    workdirs.read([folder, "run"])


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"method": 3}, "method=3: must be text"),
    ({"primary_variant": "best"}, "primary_variant='best': must be one of"),
    ({"accuracy": {"quantized": {"mean": "x"}}}, "mean='x': must be a finite"),
    ({"timing": {}}, "timing.seconds_per_round: must be given"),
  ],
)
def test_a_file_that_says_something_else_is_named(tmp_path, change, said):
  folder = made.run(tmp_path / "run", summary=change)
  with pytest.raises(ValueError, match=f"summary.json: must be .*{said}"):
    workdirs.read([folder])


def test_a_line_of_a_finished_run_must_be_whole(tmp_path):
  folder = made.run(tmp_path / "run")
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"round": 5, "los')
  with pytest.raises(ValueError, match="metrics.jsonl: must be .*line 5"):
    workdirs.read([folder])


def test_values_are_said_as_files_have_them():
  assert workdirs.said("x") == "x"
  assert workdirs.said([1, None]) == json.dumps([1, None])
