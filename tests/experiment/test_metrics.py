import json

import pytest

from quped_jax.experiment import metrics


def test_files_hold_plain_json(tmp_path):
  writer = metrics.Writer(tmp_path / "deep" / "down")
  writer.start({"bits": (1, 2)}, {"seed": 0})
  writer.summary({"worst": float("nan"), "table": [1.0, float("inf")]})
  writer.metrics({"round": 1, "loss": float("nan")})
  writer.metrics({"round": 2, "loss": 0.5})
  writer.clients([{"client": 0, "bits": 1}, {"client": 1, "bits": 32}])
  writer.figures([{"round": 0}, {"round": 1}])
  folder = tmp_path / "deep" / "down"
  assert sorted(p.name for p in folder.iterdir()) == [
    "clients.csv", "config.json", "figures.jsonl", "identity.json",
    "metrics.jsonl", "summary.json",
  ]  # fmt: skip

  def read(name):
    return (folder / name).read_text()

  assert json.loads(read("config.json")) == {"bits": [1, 2]}
  assert json.loads(read("identity.json")) == {"seed": 0}
  assert json.loads(read("summary.json")) == {
    "worst": None,
    "table": [1.0, None],
  }
  assert [json.loads(line) for line in read("metrics.jsonl").splitlines()] == [
    {"round": 1, "loss": None},
    {"round": 2, "loss": 0.5},
  ]
  assert read("clients.csv").split() == ["client,bits", "0,1", "1,32"]
  assert read("figures.jsonl") == '{"round": 0}\n{"round": 1}\n'


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = metrics.Writer(None)
  writer.start({}, {})
  writer.summary({})
  writer.metrics({})
  writer.clients([{"client": 0}])
  writer.figures([{"round": 0}])
  assert list(tmp_path.iterdir()) == []


def test_records_for_figures_go_when_another_run_begins(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.figures([{"round": 0}])
  writer.start({}, {}, keep=True)
  assert (tmp_path / "figures.jsonl").exists()
  writer.start({}, {})
  assert not (tmp_path / "figures.jsonl").exists()
  writer.figures([{"round": 0}])
  writer.figures([])
  assert not (tmp_path / "figures.jsonl").exists()


def test_a_second_run_in_a_workdir_starts_its_records_afresh(tmp_path):
  for _ in range(2):
    writer = metrics.Writer(tmp_path)
    writer.start({}, {})
    assert not (tmp_path / "summary.json").exists()
    writer.metrics({"round": 1})
    writer.summary({})
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_that_goes_on_keeps_its_records_and_says_what_it_is_now(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.start({"devices": 1}, {"seed": 0})
  writer.metrics({"round": 1})
  writer.metrics({"round": 2})
  writer.go_on({"devices": 2}, {"seed": 0}, [{"round": 1}])
  assert (tmp_path / "metrics.jsonl").read_text() == '{"round": 1}\n'
  assert json.loads((tmp_path / "config.json").read_text()) == {"devices": 2}
  assert json.loads((tmp_path / "identity.json").read_text()) == {"seed": 0}


def test_a_run_that_never_starts_leaves_an_earlier_one_alone(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.start({}, {})
  writer.metrics({"round": 1})
  metrics.Writer(tmp_path)
  assert (tmp_path / "metrics.jsonl").read_text() == '{"round": 1}\n'


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_workdir_that_cannot_be_made_is_an_error(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="workdir='.*must be a folder that can"):
    metrics.Writer(tmp_path / "file" / below)
