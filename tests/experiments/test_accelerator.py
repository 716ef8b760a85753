"""Suite `accelerator`: rows within a given time, of one checkout or two."""

import json
import pathlib
import re
import subprocess
import sys
import time

import pytest
import rich.console
from absl import flags

from experiments import benchmark
from experiments.benchmarks import (
  accelerator,
  report,
  rows,
  tasks,
  timed,
  torch_loop,
  worker,
)
from experiments.benchmarks.report import OTHER, THIS
from experiments.benchmarks.rows import Row, Work
from tests.experiments.measured import times

ROOT = pathlib.Path(__file__).parents[2]


MACHINE = {
  "device": "cpu2",
  "device_kind": "cpu",
  "commit": None,
  "versions": {"jax": "0"},
  "date": "today",
  "start_seconds": 2.0,
}


def row(name, weight=1.0, group="group", ours=True, run=lambda: None):
  return Row(group, name, "step", weight, lambda quick: Work(run, 2), ours)


class Clock:
  """Time that passes only while rows are measured."""

  def __init__(self, seconds):
    self.left = seconds

  def spend(self, seconds, monkeypatch_time):
    self.left -= seconds
    monkeypatch_time.now += seconds


class Now:
  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now


@pytest.fixture
def shown(tmp_path):
  return make_report(tmp_path, THIS)


def make_report(folder, *checkouts):
  console = rich.console.Console(quiet=True)
  machines = {name: MACHINE for name in checkouts}
  return report.Report(folder, console, machines, quick=False)


def play(found, seconds, cost, shown, monkeypatch, checkouts=(THIS,)):
  """Measures rows of which each takes `cost(key)` seconds: those asked for."""
  clock, now, asked = Clock(seconds), Now(), []
  monkeypatch.setattr(timed.time, "monotonic", now.monotonic)

  def asking(checkout):
    def ask(key, left):
      assert left == clock.left
      asked.append((checkout, key))
      clock.spend(cost(key), now)
      return times()

    return ask

  ask = {name: asking(name) for name in checkouts}
  timed.measure(found, ask, shown, lambda: clock.left)
  assert clock.left >= 0
  return asked


def test_a_row_that_cannot_finish_is_not_begun(shown, monkeypatch):
  found = [row("a"), row("b"), row("long", 9.0), row("c")]
  # Each takes ten times its weight, as the first shows.
  asked = play(
    found,
    40.0,
    lambda key: 90.0 if "long" in key else 10.0,
    shown,
    monkeypatch,
  )
  assert [key for _, key in asked] == ["group: a", "group: b", "group: c"]
  reason = shown.results[THIS]["group: long"]["left_out"]
  assert reason == "takes about 108 s of 20"


def test_a_row_is_as_slow_as_its_own_group():
  costs = timed.Costs()
  assert costs.predict(row("a", 4.0)) == 4.0
  costs.add(row("a", 2.0), 10.0)
  costs.add(row("b", 2.0, "fast"), 2.0)
  assert costs.predict(row("c", 1.0)) == 5.0
  assert costs.predict(row("c", 1.0, "fast")) == 1.0
  assert costs.predict(row("c", 1.0, "new")) == 3.0
  # The slowest of the last three.
  for _ in range(3):
    costs.add(row("d", 1.0), 2.0)
  assert costs.predict(row("e", 1.0)) == 2.0


def test_checkouts_take_turns_and_rivals_are_measured_once(
  tmp_path, monkeypatch
):
  shown = make_report(tmp_path, THIS, OTHER)
  found = [row("a"), row("rival", ours=False), row("b")]
  asked = play(found, 99.0, lambda _: 1.0, shown, monkeypatch, (THIS, OTHER))
  assert asked == [
    (THIS, "group: a"),
    (OTHER, "group: a"),
    (THIS, "group: rival"),
    (THIS, "group: b"),
    (OTHER, "group: b"),
  ]
  assert shown.ratio("group: a") == 1.0
  assert shown.ratio("group: rival") is None


def test_files_are_complete_after_every_row(tmp_path):
  shown = make_report(tmp_path, THIS, OTHER)
  shown.add(row("a"), THIS, times(0.5, details={"clients": 3}))
  shown.add(row("a"), OTHER, times(1.0))
  shown.add(row("b"), THIS, times(0.25))
  shown.add(row("b"), OTHER, {"failed": "TypeError: no such argument"})
  about, *lines = map(json.loads, shown.lines.read_text().splitlines())
  assert about["machines"] == {THIS: MACHINE, OTHER: MACHINE}
  assert [(x["name"], x["checkout"]) for x in lines] == [
    ("a", THIS),
    ("a", OTHER),
    ("b", THIS),
    ("b", OTHER),
  ]
  assert lines[0] == {
    "group": "group",
    "name": "a",
    "unit": "step",
    "checkout": THIS,
    **times(0.5, details={"clients": 3}),
  }
  table = shown.table.read_text()
  assert (
    "| group: a | step | 500 | 3 | 1 | 1000 | 3 | 1 | 2.00 | clients 3 |"
    in table
  )
  assert "| other failed: TypeError: no such argument |" in table


def test_rows_that_crash_or_take_too_long_are_reported(shown):
  def ask(key, left):
    raise worker.EndedError("its process ended with code -6")

  timed.measure([row("a"), row("b")], {THIS: ask}, shown, lambda: 100.0)
  reason = {"failed": "its process ended with code -6"}
  assert shown.results[THIS] == {"group: a": reason, "group: b": reason}


@pytest.mark.slow
def test_what_a_checkout_lacks_is_a_result():
  def lacks(quick):
    raise rows.MissingError("no setting x")

  def fails(quick):
    raise TypeError("unexpected argument\nand more")

  found = [Row("group", "a", "step", 1.0, make) for make in (lacks, fails)]
  assert [rows.measure(each, True) for each in found] == [
    {"missing": "no setting x"},
    {"failed": "TypeError: unexpected argument"},
  ]


@pytest.mark.slow
def test_compilation_is_counted_apart():
  first = iter([0.2])

  def run():
    time.sleep(next(first, 0.0))

  measured = rows.measure(row("a", run=run), True)
  assert measured["first_seconds"] >= 0.2
  assert measured["seconds_min"] < 0.05
  assert measured["compile_seconds"] is None


@pytest.mark.slow
def test_a_piece_is_measured():
  (piece,) = (
    each
    for each in accelerator.all_rows()
    if each.key == "pieces: sums by 2 levels, masked"
  )
  measured = rows.measure(piece, True)
  assert 0 < measured["seconds_min"] <= measured["seconds_median"]
  assert 0 < measured["compile_seconds"] <= measured["first_seconds"]


def test_rows_have_keys_of_their_own_and_the_most_important_come_first():
  found = accelerator.all_rows()
  keys = [each.key for each in found]
  assert len(set(keys)) == len(keys)
  assert [each.name for each in found[:6]] == [
    f"{name}, {dtype}"
    for dtype in ("float32", "bfloat16")
    for name in ("SGD", "QuPeD 1 bit", "QuPeD mixed")
  ]
  assert found[-1].group == "pieces"


def test_without_torch_its_rows_are_left_out(monkeypatch):
  monkeypatch.setattr(torch_loop, "available", lambda: False)
  names = {each.key for each in accelerator.rows_here()}
  everything = {each.key for each in accelerator.all_rows()}
  assert everything - names == {
    f"PyTorch: {how} over clients, {clients} clients"
    for how in ("loop", "torch.func")
    for clients in (8, 50)
  }


def test_time_is_counted_from_the_start_of_the_process():
  first = timed.seconds_since_start()
  time.sleep(0.05)
  assert 0.03 <= timed.seconds_since_start() - first < 10
  # Python and JAX were imported before this file was.
  since_import = time.monotonic() - timed._IMPORTED
  assert first > since_import - 0.05


@pytest.mark.skipif(not torch_loop.available(), reason="PyTorch is missing")
@pytest.mark.parametrize("task", [tasks.TINY, tasks.TINY_CNN1])
def test_torch_trains_in_a_loop_and_batched(task):
  task.torch_loop(3)()
  task.torch_batched(3)()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--suite=accelerator,conv"], "suite='accelerator,conv': must be"),
    (["--suite=conv", "--against=."], "against='.': must be left out"),
    (
      ["--suite=accelerator", "--against=nowhere"],
      "against='nowhere': must be a checkout",
    ),
    (["--suite=accelerator", "--rows=("], "rows='(': must be a regular"),
  ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, capsys):
  values = flags.FLAGS
  values.unparse_flags()
  try:
    values(["benchmark", f"--output={tmp_path}", *arguments])
    with pytest.raises(SystemExit):
      benchmark.main(["benchmark"])
  finally:
    values.unparse_flags()
    for name in ("suite", "against", "rows", "output"):
      values[name].unparse()
    values(["benchmark"])
  assert message in capsys.readouterr().err


def run(folder, *arguments, timeout=900):
  command = [sys.executable, "-m", "experiments.benchmark"]
  done = subprocess.run(
    [*command, "--suite=accelerator", "--quick", f"--output={folder}"]
    + list(arguments),
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  (file,) = folder.glob("accelerator_*.jsonl")
  about, *lines = map(json.loads, file.read_text().splitlines())
  return about, lines, done.stdout


@pytest.mark.long
def test_every_row_can_be_measured(tmp_path):
  about, lines, _ = run(tmp_path, "--minutes=14")
  assert about["quick"]
  assert [f"{x['group']}: {x['name']}" for x in lines] == [
    each.key for each in accelerator.rows_here()
  ]
  for line in lines:
    assert "failed" not in line
    assert "left_out" not in line
    if line["group"] == "small models":
      assert line["details"]["operations_per_step"] > 10
    if line["group"] == "memory":
      assert line["details"]["copies_of_state"] >= 1
  missing = {line["name"] for line in lines if "missing" in line}
  assert missing <= {"QuPeD mixed, float32, deterministic"}


@pytest.mark.long
def test_it_stops_in_time(tmp_path):
  begin = time.monotonic()
  _, lines, text = run(tmp_path, "--minutes=0.6")
  assert time.monotonic() - begin < 0.6 * 60 + 5
  assert len(lines) == len(accelerator.rows_here())
  assert any("left_out" in line for line in lines)
  assert "Aims" in text


@pytest.mark.slow
def test_another_checkout_is_measured_beside_this_one(tmp_path):
  old = tmp_path / "old"
  old.mkdir()
  for path in (ROOT / "quped_jax").rglob("*.py"):
    copy = old / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text()
    if path.name == "level_sums.py":
      # Older than this function.
      text = text.replace("count_by_bin", "counts")
    if path.name == "version.py":
      text = '__version__ = "0.0.1"\n'
    copy.write_text(text)
  about, lines, text = run(
    tmp_path,
    f"--against={old}",
    "--rows=pieces: (weights prox|histogram.*scatter)",
    "--minutes=10",
  )
  versions = {
    name: machine["versions"]["quped_jax"]
    for name, machine in about["machines"].items()
  }
  assert versions[OTHER] == "0.0.1" != versions[THIS]
  found = {(x["name"], x["checkout"]): x for x in lines}
  histogram = "histogram of 288 places, scatter"
  assert found[histogram, THIS]["seconds_min"] > 0
  assert found[histogram, OTHER]["failed"].startswith("AttributeError")
  assert found["weights prox, l1, 16 levels", OTHER]["seconds_min"] > 0
  assert re.search(r"weights prox, l1, 16 levels +\d", text)


@pytest.mark.slow
def test_a_process_that_is_too_slow_or_crashes_is_ended_and_begun_anew():
  handle = worker.Worker(ROOT, quick=True, memory_share=0.1)
  try:
    assert handle.start(300.0)["commit"] == worker.commit(ROOT)
    with pytest.raises(worker.EndedError, match="time was up"):
      handle.ask("whole steps: SGD, float32", 0.2)
    assert handle._process is None
    with pytest.raises(worker.EndedError, match="ended with code 1"):
      handle.ask("no such row", 300.0)
    answer = handle.ask("pieces: sums by 2 levels, masked", 300.0)
    assert answer["seconds_min"] > 0
  finally:
    handle.close()
