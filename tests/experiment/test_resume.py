"""Progress; see also test_interrupted_runs.py, and tests of checkpoints."""

import contextlib
import hashlib
import json
import re
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.experiment import resume
from quped_jax.experiment.resume import Progress, Signals
from quped_jax.files.checkpoint import Checkpoints
from tests.hostile import cases, damaged, other_json

CAUGHT = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def handled(number, handler):
  """A signal's handler, for a while."""
  before = signal.signal(number, handler)
  try:
    yield
  finally:
    signal.signal(number, before)


class SecondError(Exception):
  """A signal did what it would do without a run."""


def second(number, frame):
  raise SecondError


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_is_remembered_and_a_second_one_ends_at_once(number):
  with handled(number, second):
    with Signals(saves=True) as signals:
      assert signals.seen() == 0
      signal.raise_signal(number)
      assert signals.seen() == number
      if number == signal.SIGHUP:
        # A system and a shell may both say that a terminal is gone.
        signal.raise_signal(number)
        assert signals.seen() == number
      else:
        with pytest.raises(SecondError):
          signal.raise_signal(number)
    with pytest.raises(SecondError):
      signal.raise_signal(number)


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_that_is_ignored_stays_so(number):
  with handled(number, signal.SIG_IGN), Signals(saves=True) as signals:
    signal.raise_signal(number)
    assert signals.seen() == 0
    assert signal.getsignal(number) == signal.SIG_IGN


def test_where_nothing_can_be_saved_only_ctrl_c_is_caught():
  with contextlib.ExitStack() as stack:
    for number in CAUGHT:
      stack.enter_context(handled(number, second))
    with Signals(saves=False) as signals:
      for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(SecondError):
          signal.raise_signal(number)
      signal.raise_signal(signal.SIGINT)
      assert signals.seen() == signal.SIGINT


def test_validation_decides_even_where_test_disagrees():
  def accuracy(validation, test):
    def table(value):
      return {"quantized": np.array([value, value])}

    return {"validation": table(validation), "test": table(test)}

  def best_of(evaluated):
    progress = Progress()
    for round_, table in zip((2, 4, 6), evaluated, strict=True):
      progress.look({"round": round_}, table, "quantized")
    return progress.best_rounds()

  evaluated = [accuracy(0.5, 0.9), accuracy(0.7, 0.6), accuracy(0.6, 0.8)]
  best = best_of(evaluated)
  assert best["best_round"] == 4
  assert best["accuracy_best_round"]["quantized"]["mean"] == 0.6
  assert best["oracle_best"]["round"] == 2
  for tables in evaluated:
    del tables["validation"]
  best = best_of(evaluated)
  assert best["best_round"] is None and best["accuracy_best_round"] is None
  assert best["oracle_best"]["accuracy"]["quantized"]["mean"] == 0.9


TABLE = {"quantized": {"mean": 0.5, "worst": float("nan")}}
PROGRESS = {
  "history": [
    {"round": 1, "loss": 0.5, "test/quantized": float("nan")},
    {"round": 3, "loss": float("inf"), "test/quantized": 1},
  ],
  "best": {
    "test": {"round": 3, "value": 0.5, "accuracy": TABLE},
    "validation": {"round": 1, "value": 0.5, "accuracy": TABLE},
  },
  "seconds": [0.5, 0.25],
  "finetuning": False,
  "figures": [{"round": 3, "scores": {"quantized": [0.1, 0.2, 0.3, 0.4, 1]}}],
}
CONTENT = {
  "round": 3,
  "value": 0.5,
  "identity": {"seed": 0},
  "arrays": [[".round", [], "int32"]],
  "progress": PROGRESS,
}


def forged(folder, text):
  """A checkpoint of that progress, whose manifest says that it is whole."""
  path = folder / "checkpoints" / "round_00000003"
  path.mkdir(parents=True, exist_ok=True)
  digest = hashlib.sha256(text).hexdigest()
  (path / "progress.json").write_bytes(text)
  manifest = {"format": 1, "files": {"progress.json": [len(text), digest]}}
  (path / "manifest.json").write_text(json.dumps(manifest))
  return path


class ReachedError(Exception):
  """The checkpoint's content is as it must be; its arrays come next."""


def content_of(folder):
  """The progress that a checkpoint is read as; a ValueError if none is whole.

  Its arrays, which it does not have, are not read.
  """
  found = []

  def shapes(progress):
    found.append(progress)
    raise ReachedError

  checkpoints = Checkpoints(folder, {"seed": 0}, renamed=resume._understood)
  try:
    checkpoints.latest(shapes)
  except ReachedError:
    return Progress(**found[0])


def edit(*path, to):
  """The content with another value in one place."""
  content = json.loads(json.dumps(CONTENT))
  inner = content
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = to
  return content


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      edit("round", to=4),
      "round='round_00000003': must be one of round_0000000",
    ),
    (edit("round", to=3.0), "round=3.0: must be a whole number"),
    (edit("round", to=True), "round=True: must be a whole number"),
    (edit("value", to="0.5"), "value='0.5': must be a number"),
    (edit("identity", to=[]), r"identity=\[\]: must be an object"),
    (edit("arrays", 0, to=["x", [1]]), r"arrays\[0\]=.* a list of 3 entries"),
    (edit("arrays", 0, 0, to=1), r"arrays\[0\]\[0\]=1: must be text"),
    (
      edit("arrays", 0, 1, to=[1.5]),
      r"arrays\[0\]\[1\]\[0\]=1.5: must be",
    ),
    (edit("progress", "finetuning", to=0), "progress.finetuning=0: must be tr"),
    (edit("progress", "more", to=0), "progress.more: must not be given"),
    (
      edit("progress", "seconds", 0, to=True),
      r"seconds\[0\]=True: must be",
    ),
    (edit("progress", "history", to={}), "progress.history={}: must be a list"),
    (edit("progress", "history", 1, "round", to=4), r"history\[1\].round=4"),
    (edit("progress", "history", 0, "loss", to="1"), r"history\[0\].loss='1'"),
    (edit("progress", "figures", 0, to={}), r"figures\[0\].round: must be gi"),
    (edit("progress", "best", to={}), "progress.best.test: must be given besi"),
    (edit("progress", "best", "test", "round", to=1.5), "best.test.round=1.5"),
    (
      edit("progress", "best", "test", "accuracy", to={"a": {"b": "c"}}),
      "best.test.accuracy.a.b='c': must be a number",
    ),
  ],
)
def test_forged_progress_is_not_gone_on_from(content, message, tmp_path):
  path = forged(tmp_path, json.dumps(content).encode())
  must = rf"round_00000003' is damaged \(.*progress.json: .*{message}"
  with (
    pytest.warns(UserWarning, match=must),
    pytest.raises(ValueError, match="must have a checkpoint that is whole"),
  ):
    content_of(tmp_path)
  assert path.exists()


def test_progress_comes_back_as_it_was(tmp_path):
  forged(tmp_path, json.dumps(CONTENT).encode())
  assert repr(content_of(tmp_path)) == repr(Progress(**PROGRESS))


def test_progress_from_before_there_were_figures_is_gone_on_from(tmp_path):
  content = json.loads(json.dumps(CONTENT))
  del content["progress"]["figures"]
  forged(tmp_path, json.dumps(content).encode())
  found = content_of(tmp_path)
  assert found is not None and found.figures == []


@pytest.mark.parametrize("name", ["progress.json", "manifest.json"])
@given(data=st.data())
@cases(30)
@pytest.mark.filterwarnings("ignore:checkpoint .* is damaged")
def test_a_hostile_checkpoint_is_right_or_not_used(
  name, data, tmp_path_factory
):
  folder = tmp_path_factory.getbasetemp() / f"hostile_{name}"
  path = forged(folder, json.dumps(CONTENT).encode())
  if name == "progress.json":
    text = data.draw(other_json(CONTENT))
    forged(folder, text)
  else:
    good = (path / name).read_bytes()
    (path / name).write_bytes(
      data.draw(other_json(json.loads(good)) | damaged(good))
    )
  try:
    found = content_of(folder)
  except ValueError as error:
    assert re.match("workdir='.*': must (have|be) ", str(error))
    return
  assert found is not None
  said = json.loads((path / "progress.json").read_text())
  # As text, in which true and 1.0 are not 1.
  assert json.dumps(vars(found), sort_keys=True) == json.dumps(
    said["progress"], sort_keys=True
  )
  assert json.dumps([said["round"], said["identity"]]) == '[3, {"seed": 0}]'
  assert all(type(x["round"]) is int for x in found.history)
