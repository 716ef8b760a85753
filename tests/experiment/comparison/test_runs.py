"""Running what is missing of a list of runs."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.data import sources
from quped_jax.experiment.comparison import curves, plan, runs, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.models import registry
from tests.experiment.comparison import small
from tests.hostile import (
  cases,
  damaged,
  other_json,
  other_text,
  read_or_refused,
)


def run_stub(config, folder, **kwargs):
  start = small.Stub(**kwargs)
  lines = []
  planned = plan.make_runs(config, folder)
  runs.run_missing(planned, start, lines.append)
  return [path.name for path in start.folders], lines


@pytest.mark.slow
def test_what_is_done_is_not_run_again(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0, 1))
  first, lines = run_stub(config, tmp_path)
  assert first == [
    "local_32_seed0",
    "fedavg_32_seed0",
    "local_32_seed1",
    "fedavg_32_seed1",
  ]
  assert lines[0] == "4 of 4 runs to do"
  assert lines[1].startswith("[1/4] local, 32 bits, seed 0: 0 s; 0:00 elapsed")
  again, lines = run_stub(config, tmp_path)
  assert again == []
  assert lines == ["0 of 4 runs to do"]
  (tmp_path / "runs" / "fedavg_32_seed0" / "summary.json").unlink()
  assert run_stub(config, tmp_path)[0] == ["fedavg_32_seed0"]


@pytest.mark.slow
def test_after_an_interruption_the_same_call_goes_on(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0, 1))
  with pytest.raises(KeyboardInterrupt):
    run_stub(config, tmp_path, stop_after=2)
  assert run_stub(config, tmp_path)[0] == ["local_32_seed1", "fedavg_32_seed1"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "base"),
  [("local", {"epochs": 2}), ("quped", {"budget": "gradients"})],
)
def test_steps_that_follow_from_others_are_recognized(tmp_path, method, base):
  config = small.make_config(
    methods=(method,), bits=("32",), seeds=(0,), base=base
  )
  (run,) = plan.make_runs(config, tmp_path)
  qj.run(run.settings, run.folder, display=qj.Display(quiet=True))
  summary = json.loads((run.folder / "summary.json").read_text())
  assert summary["steps"] != run.settings.steps
  assert runs.to_do([run]) == []


def test_what_remains_is_estimated_by_row():
  one, two = Row("local", (32,)), Row("fedavg", (32,))
  left = [plan.Run(row, None, None, "") for row in (one, one, two)]  # pyright: ignore[reportArgumentType]
  assert runs.estimate({one: 3.0}, left) == 9.0
  assert runs.estimate({one: 3.0, two: 1.0}, left) == 7.0
  assert runs.minutes(187.4) == "3:07"


@pytest.mark.slow
def test_a_run_that_was_stopped_is_not_compared(tmp_path):
  config = small.make_config(methods=("local",), bits=("32",), seeds=(0, 1))
  run_stub(config, tmp_path)
  run, _ = plan.make_runs(config, tmp_path)
  path = run.folder / "summary.json"
  summary = json.loads(path.read_text())
  summary |= {"rounds": 1, "stopped": {"why": "enough", "rounds_left": 1}}
  path.write_text(json.dumps(summary))
  with pytest.raises(ValueError, match="stopped=.*only runs that went through"):
    runs.read(run)
  # It goes on: its results are of the same run.
  assert not runs.is_finished(run)
  assert runs.to_do(plan.make_runs(config, tmp_path)) == [(run, True)]


def refused(config, folder, message, restart=False):
  start = small.Stub()
  planned = plan.make_runs(config, folder)
  with pytest.raises(ValueError, match=message):
    runs.run_missing(planned, start, restart=restart)
  assert not start.folders


def content(folder):
  files = sorted(x for x in folder.rglob("*") if x.is_file())
  return {path: path.read_bytes() for path in files}


def again(config, folder):
  start = small.Stub()
  planned = plan.make_runs(config, folder)
  runs.run_missing(planned, start, lambda line: None, restart=True)
  return [path.name for path in start.folders]


@pytest.mark.slow
def test_results_of_other_settings_are_kept_or_begun_anew(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0, 1))
  run_stub(config, tmp_path)
  before = content(tmp_path)
  changed = copy.deepcopy(config)
  changed["overrides"] = {"fedavg": {"fedavg": {"server_learning_rate": 0.5}}}
  refused(
    changed,
    tmp_path,
    r"must be another folder, or have what differs begun anew \(--restart\), "
    "since results or checkpoints of 2 of the 4 runs are of other ones; of "
    "fedavg_32_seed0, fedavg.server_learning_rate is 1.0 there and 0.5 here$",
  )
  assert content(tmp_path) == before
  # Those alone, and then there is nothing to do.
  assert again(changed, tmp_path) == ["fedavg_32_seed0", "fedavg_32_seed1"]
  assert run_stub(changed, tmp_path)[0] == []
  # Options of a method that does not run change nothing.
  changed["base"]["quped"]["lambda_p"] = 0.1
  assert run_stub(changed, tmp_path)[0] == []


def register(monkeypatch, name, factory):
  models = dict(registry._registered, **{name: factory})
  monkeypatch.setattr(registry, "_registered", models)


@pytest.mark.slow
def test_a_registered_network_that_changed_is_another_run(
  tmp_path, monkeypatch
):
  def widths(*features):
    register(
      monkeypatch,
      "own",
      lambda classes, **_: qj.create_model("mlp", classes, features=features),
    )

  config = small.make_config(
    bits=("32",), seeds=(0,), base={"model": "own", "hidden": ()}
  )
  widths(8, 8)
  run_stub(config, tmp_path)
  assert run_stub(config, tmp_path)[0] == []
  widths(8, 9)
  refused(
    config, tmp_path, "of local_32_seed0, network of .*; global network is"
  )
  widths(8, 8)
  assert run_stub(config, tmp_path)[0] == []


@pytest.mark.slow
def test_a_dataset_whose_samples_changed_is_another_run(tmp_path, monkeypatch):
  dataset = qj.load_dataset("digits")
  loaders = sources._LOADERS
  monkeypatch.setitem(loaders, "own", lambda data_dir, keep: dataset)
  config = small.make_config(bits=("32",), seeds=(0,), base={"dataset": "own"})
  run_stub(config, tmp_path)
  inputs = dataset.inputs.copy()
  inputs[700] += 0.5
  dataset = dataclasses.replace(dataset, inputs=inputs)
  refused(config, tmp_path, "local_32_seed0, data is not the same$")


@pytest.mark.slow
def test_a_participation_trace_that_changed_is_another_run(tmp_path):
  trace = tmp_path / "trace.csv"
  trace.write_text("round,client\n0,0\n1,1\n")
  config = small.make_config(
    bits=("32",), seeds=(0,), base={"participation_trace": str(trace)}
  )
  run_stub(config, tmp_path / "runs")
  trace.write_text("round,client\n0,0\n1,2\n")
  refused(
    config, tmp_path / "runs", "_seed0, participation trace is not the same"
  )


@pytest.mark.slow
def test_a_method_of_another_version_is_another_run(tmp_path, monkeypatch):
  config = small.make_config(bits=("32",), seeds=(0,))
  run_stub(config, tmp_path)
  methods = qj.methods.METHODS
  entry = methods["fedavg"]._replace(version=99)
  monkeypatch.setitem(methods, "fedavg", entry)
  refused(config, tmp_path, "1 of the 2 runs .* of fedavg_32_seed0, code of th")
  assert again(config, tmp_path) == ["fedavg_32_seed0"]


@pytest.mark.slow
def test_results_that_do_not_say_what_they_are_of_are_not_taken(tmp_path):
  """Such as those of versions that recorded settings only."""
  config = small.make_config(bits=("32",), seeds=(0,))
  run_stub(config, tmp_path)
  (tmp_path / "runs" / "local_32_seed0" / "identity.json").unlink()
  refused(config, tmp_path, "of local_32_seed0, version of quped_jax is not k")
  assert again(config, tmp_path) == ["local_32_seed0"]


def test_an_unfinished_run_of_other_settings_begins_anew(tmp_path):
  config = small.make_config(methods=("local",), bits=("32",), seeds=(0,))
  run_stub(config, tmp_path)
  folder = tmp_path / "runs" / "local_32_seed0"
  (folder / "summary.json").unlink()
  other = small.make_config(
    methods=("local",), bits=("32",), seeds=(0,), base={"rounds": 3}
  )

  def pending(config):
    return [x.resume for x in runs.to_do(plan.make_runs(config, tmp_path))]

  # Nothing is there to be kept, which the run itself finds.
  assert pending(config) == pending(other) == [True]
  # Unless it has got as far as a checkpoint.
  (folder / "checkpoints" / "round_00000001").mkdir(parents=True)
  assert pending(config) == [True]
  refused(other, tmp_path, "1 of the 1 runs .* rounds is 2 there and 3 here$")


def one_run(tmp_path, **base):
  """A finished run."""
  config = small.make_config(
    methods=("fedavg",), bits=("32",), seeds=(0,), base=base
  )
  run_stub(config, tmp_path)
  return plan.make_runs(config, tmp_path)[0]


def edited(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def refused_to_read(run, what, message):
  with pytest.raises(
    ValueError, match=rf"{what} of a finished run \({message}"
  ):
    runs.read(run)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: s.pop("gradients"), "gradients: must be given"),
    (lambda s: s.update(gradients="4"), "gradients='4': must be a finite num"),
    (lambda s: s.update(gradients=True), "gradients=True: must be a finite"),
    (lambda s: s.update(bytes_up=None), "bytes_up=None: must be a finite"),
    (lambda s: s.update(bytes_up=float("nan")), "NaN is no number"),
    (lambda s: s.update(bytes_up=-1), "bytes_up=-1: must be .* at least 0"),
    (lambda s: s.update(clients=7), "clients=7: must be one of 6"),
    (lambda s: s.update(clients=6.0), "clients=6.0: must be a whole number"),
    (lambda s: s.update(primary_variant=3), "primary_variant=3: must be text"),
    (
      lambda s: s.update(primary_variant="x"),
      "variant='x': must be one",
    ),
    (lambda s: s.update(headline="x"), "headline: must not be given beside"),
    (
      lambda s: s["accuracy"]["quantized"].update(mean=75),
      "accuracy.quantized.mean=75: must be .* at least 0, at most 1",
    ),
    (
      lambda s: s["accuracy"]["quantized"].pop("worst"),
      "accuracy.quantized.worst: must be given",
    ),
    (
      lambda s: s["held_out_clients"]["quantized"].update(mean=None),
      "held_out_clients.quantized.mean=None",
    ),
    (
      lambda s: s.update(held_out_clients={"x": {"mean": 0.5}}),
      "held_out_clients.personalized: must be given",
    ),
    (
      lambda s: s["timing"].update(compile_seconds="1"),
      "timing.compile_seconds='1'",
    ),
  ],
)
def test_a_summary_of_something_else_is_named(change, message, tmp_path):
  run = one_run(tmp_path)
  edited(run.folder / "summary.json", change)
  refused_to_read(run, "summary.json: must be the summary", f".*{message}")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ("", "it ends with round 0 of 2"),
    ('{"round": 1, "test/quantized": 0.5}', "it ends with round 1 of 2"),
    ('{"round": 2}', "test/quantized: must be given in each line"),
    ('{"round": 2, "test/quantized": "0.5"}', "line 1.test/quantized='0.5'"),
    ('{"round": 2.0, "test/quantized": 0.5}', "line 1.round=2.0: must be a wh"),
    ('{"round": 3, "test/quantized": 0.5}', "line 1.round=3: .* from 1 to 2"),
    ('{"test/quantized": 0.5}', "line 1.round=None: must be a whole number"),
    ('{"round": 2, "test/quantized": 0.5}\n' * 2, "line 2.round=2: must be"),
    ('{"round": 2, "test/quantized": NaN}', "line 1: NaN is no number"),
    ("[2]", "line 1=.*: must be an object"),
    ('{"round": 2', "line 1: "),
  ],
)
def test_records_of_something_else_are_named(lines, message, tmp_path):
  run = one_run(tmp_path)
  (run.folder / "metrics.jsonl").write_text(lines)
  refused_to_read(run, "metrics.jsonl: must be the records", message)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ("0,0.5", "it has 1 of 6 rows"),
    ("0,0.5\n0,0.5", "line 3: client='0': must be a whole number from 1 to 1"),
    ("0,1.5", "line 2: quantized='1.5': must be a number from 0 to 1, or nan"),
    ("0,1_0", "line 2: quantized='1_0': must be a number"),
    ("0,", "line 2: quantized='': must be a number"),
    ("0,0.5,1", "line 2: must have 2 entries; got 3"),
  ],
)
def test_rows_of_something_else_are_named(rows, message, tmp_path):
  run = one_run(tmp_path)
  (run.folder / "clients.csv").write_text(f"client,quantized\n{rows}\n")
  refused_to_read(run, "clients.csv: must be the clients", message)


def test_accuracies_that_are_not_known_are_nan(tmp_path):
  run = one_run(tmp_path)
  path = run.folder / "clients.csv"
  path.write_text(path.read_text().replace("0,0.6", "0,nan", 1))
  assert np.isnan(runs.read(run).scores[0])
  text = (
    '{"round": 1, "test/quantized": null}\n{"round": 2, "test/quantized": 1}'
  )
  (run.folder / "metrics.jsonl").write_text(text)
  curve = curves.curve({0: runs.read(run)})
  np.testing.assert_array_equal(curve.scores, [np.nan, 100.0])


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["summary.json", "metrics.jsonl", "clients.csv", "identity.json"]
)
def test_damaged_results_are_named_before_a_run_or_begun_anew(name, tmp_path):
  run = one_run(tmp_path)
  config = small.make_config(
    methods=("fedavg", "local"), bits=("32",), seeds=(0,)
  )
  (run.folder / name).write_text("[" * 100_000)
  refused(
    config, tmp_path, rf"1 of the 2 runs .* of fedavg_32_seed0, .*{name}: must"
  )
  assert again(config, tmp_path) == ["fedavg_32_seed0", "local_32_seed0"]
  assert run_stub(config, tmp_path)[0] == []


RESULTS = ("summary.json", "metrics.jsonl", "clients.csv")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
  run = one_run(tmp_path_factory.mktemp("finished"))
  return run, {name: (run.folder / name).read_bytes() for name in RESULTS}


def hostile(data, name, content):
  """What someone may have made of a file of results."""
  if data.draw(st.integers(0, 3)) == 0:
    return data.draw(damaged(content))
  if name == "clients.csv":
    return data.draw(other_text(content.decode()))
  lines = content.splitlines() if name == "metrics.jsonl" else [content]
  at = data.draw(st.integers(0, len(lines) - 1))
  lines[at] = data.draw(other_json(json.loads(lines[at])))
  return b"\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["summary.json", "metrics.jsonl", "clients.csv"]
)
@given(data=st.data())
@cases(30)
def test_hostile_results_are_right_or_refused(name, finished_run, data):
  """And what is read makes a table and a curve."""
  run, contents = finished_run
  path = run.folder / name
  path.write_bytes(hostile(data, name, contents[name]))
  try:
    found = read_or_refused(lambda: runs.read(run), f"{path}: must be the ")
  finally:
    path.write_bytes(contents[name])
  if found is None:
    return
  record = tables.row_record(run.row, {0: found}, 1.0)
  numbers = [x for x in record.values() if isinstance(x, (int, float))]
  assert all(np.isfinite(x) and x is not True for x in numbers)
  curve = curves.curve({0: found})
  assert curve.rounds[-1] == 2 and curve.rounds.dtype.kind == "i"
  assert found.scores.shape == (6,)
  known = found.scores[~np.isnan(found.scores)]
  assert ((known >= 0) & (known <= 1)).all()
