import io
import json

import pytest
import rich.console

from quped_jax.experiment import metrics

RECORD = {"loss": 1.0, "test/quantized": 0.5, "test/global": 0.255}


def lines(capsys, rounds, every=1, **options):
  """What a display off the terminal prints in a run of that many rounds."""
  with metrics.Display(**options).show("local", rounds) as update:
    for round_ in range(1, rounds + 1):
      if round_ == rounds or round_ % every == 0:
        update(round_, RECORD, 0.25)
      else:
        update(round_)
  return capsys.readouterr().out.splitlines()


def test_off_a_terminal_a_line_says_round_accuracies_and_time(capsys):
  assert lines(capsys, 1) == [
    "local: round 1/1: quantized 50.0 %, global 25.5 %, 0.25 s/round"
  ]


def test_the_label_names_the_run(capsys):
  assert lines(capsys, 1, label="mine")[0].startswith("mine: round 1/1: ")


def test_long_runs_print_few_lines_and_the_last_round(capsys):
  printed = lines(capsys, 400, lines=10)
  assert len(printed) <= 11
  assert "round 400/400" in printed[-1]
  sparse = lines(capsys, 400, every=150, lines=10)
  assert len(sparse) == 3 and "round 150/400" in sparse[0]


def test_a_quiet_display_prints_nothing(capsys):
  assert lines(capsys, 3, quiet=True) == []


def test_on_a_terminal_progress_is_live():
  file = io.StringIO()
  console = rich.console.Console(file=file, force_terminal=True, width=120)
  with metrics.Display(console).show("local", 4) as update:
    update(2, RECORD, 0.25)
    update(3)
  shown = file.getvalue()
  assert "3/4" in shown and "quantized 50.0 %" in shown


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("label", ["local", "quped_labels, 1,2,3,4,32 bits"])
def test_a_narrow_terminal_shows_round_time_and_accuracies(width, label):
  file = io.StringIO()
  console = rich.console.Console(
    file=file, force_terminal=True, width=width, color_system=None
  )
  record = {f"test/{n}": 0.5 for n in ("personalized", "quantized", "global")}
  display = metrics.Display(console, label=f"{label}, seed 0")
  with display.show("local", 1000) as update:
    assert "compiling" in file.getvalue()
    update(999)
    update(1000, record, 0.25)
  shown = file.getvalue().replace("\n", " ")
  assert "1000/1000" in shown
  assert "0:00:00" in shown
  assert (
    "personalized 50.0 %, quantized 50.0 %, global 50.0 %, 0.25 s/round"
    in " ".join(shown.split())
  )


def test_a_quiet_display_prints_no_notes_either():
  file = io.StringIO()
  console = rich.console.Console(file=file)
  metrics.Display(console, quiet=True).note("a note")
  assert file.getvalue() == ""
  metrics.Display(console).note("a note")
  assert file.getvalue() == "a note\n"


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


def test_lines_go_to_the_console_that_was_given(capsys):
  file = io.StringIO()
  display = metrics.Display(rich.console.Console(file=file))
  with display.show("local", 1) as update:
    update(1, RECORD, 0.25)
  assert file.getvalue().startswith("local: round 1/1: ")
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_workdir_that_cannot_be_made_is_an_error(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="workdir='.*must be a folder that can"):
    metrics.Writer(tmp_path / "file" / below)
