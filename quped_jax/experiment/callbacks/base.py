"""Callbacks: what a user has done while a run goes on."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from quped_jax import checks
from quped_jax.experiment.settings import Settings


class RunStart(NamedTuple):
  """What a run is, before its first round.

  Attributes:
    settings: all its settings, such as `settings.rounds` and
      `settings.clients`.
    workdir: where its results go; None for nowhere.
    round: the number of rounds that are done: 0, or that of the checkpoint or
      of the state from which the run goes on.
    history: the records of the rounds that were evaluated up to there, as in
      `metrics.jsonl`.
    dataset: the name of its data.
    model: the name of the clients' network; of several, all names.
    primary_variant: the variant of a client's model that is to be compared:
      `metrics["test/" + primary_variant]` is the score of an evaluation.
    score: what the score is: "accuracy", "label_accuracy" or "r2".
    devices: the number of devices that share the clients.
    clients_at_once: how many clients run at once, on all devices together.
  """

  settings: Settings
  workdir: pathlib.Path | None
  round: int
  history: tuple[dict[str, float], ...]
  dataset: str
  model: str
  primary_variant: str
  score: str
  devices: int
  clients_at_once: int


class Evaluation(NamedTuple):
  """What is known after a round that was evaluated.

  Attributes:
    round: the round, from 1.
    metrics: its record in `metrics.jsonl`: metrics of the round's training,
      such as "loss", and scores, mean over clients, such as "test/quantized";
      NaN where there is none.
    seconds_per_round: of the rounds since the last evaluation, without
      compiling and evaluating; NaN if there were none.
    bytes_up: that all clients sent in all rounds up to this one; where it is by
      chance who takes part, for the mean number of participants.
    bytes_down: that they received, likewise.
    diverged: the clients that diverged in any round up to this one.
  """

  round: int
  metrics: dict[str, float]
  seconds_per_round: float
  bytes_up: float
  bytes_down: float
  diverged: tuple[int, ...]


class RunEnd(NamedTuple):
  """How a run ended.

  Attributes:
    reason: "finished"; "stopped", by a callback, see `StopRun`; "interrupted",
      by a signal or Ctrl-C; "diverged"; or "error".
    round: the last round that was evaluated; 0 if none was.
    summary: the content of `summary.json`, if the run finished or was stopped.
    error: what the run raises, if it did not.
    note: why it was stopped; or what is saved, and how to go on. "" if it
      finished.
  """

  reason: Literal["finished", "stopped", "interrupted", "diverged", "error"]
  round: int
  summary: dict[str, Any] | None
  error: BaseException | None
  note: str


class StopRun(Exception):  # noqa: N818  Like StopIteration, it is no error.
  """Raised by a callback to end the run early, as a success.

  The run ends after the round that is evaluated when this is raised, or else
  after the next that is. Models, summary and tables are written as after the
  last round; `summary["rounds"]` is the number of rounds that were done, and
  `summary["stopped"]` says why. The same call goes on from there. Only whole
  runs are compared: a comparison refuses one that was stopped.

  Args:
    why: the reason, in words.

  Examples:
    >>> class Enough(qj.Callback):
    ...   def on_evaluation(self, evaluation):
    ...     if evaluation.round == 2:
    ...       raise qj.StopRun("two rounds are enough")
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=5, steps=2
    ... )
    >>> quiet = qj.Display(quiet=True)
    >>> result = qj.run(settings, callbacks=[Enough(), quiet])
    >>> result.summary["rounds"]
    2
  """

  def __init__(self, why: str = "a callback stopped the run"):
    super().__init__(why)
    self.why = why


class Callback:
  """Base class of callbacks: override what you need.

  All are called on the host between dispatches of rounds, of several processes
  in the first alone. They change nothing of what is compiled or computed. A
  callback that raises an error ends the run, with a checkpoint if there is a
  workdir; it is not called again, and the others are told of the end. Other
  methods of yours must have names that do not begin with `on_`.

  Examples:
    >>> class Rounds(qj.Callback):
    ...   def on_begin(self, start):
    ...     self.score = f"test/{start.primary_variant}"
    ...
    ...   def on_evaluation(self, evaluation):
    ...     print(evaluation.round, self.score in evaluation.metrics)
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=2, steps=2
    ... )
    >>> quiet = qj.Display(quiet=True)
    >>> result = qj.run(settings, callbacks=[Rounds(), quiet])
    1 True
    2 True
  """

  def on_begin(self, start: RunStart) -> None:
    """Called once, when all is checked, before anything of the rounds."""

  def on_note(self, text: str) -> None:
    """Called with what is worth a line, such as which tensors are quantized."""

  def on_rounds(self, first: int, last: int) -> None:
    """Called before rounds `first` to `last` are given to the devices.

    They go in one dispatch. The devices may still be busy with earlier rounds.
    """

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Called after each evaluation; it is in `metrics.jsonl` by then.

    Every `eval_every` rounds there is one, and after the last. Each is told
    once, in the order of rounds.
    """

  def on_end(self, end: RunEnd) -> None:
    """Called once, however the run ends, when its results are written."""


def check(callbacks: Any) -> list[Callback]:
  """The callbacks that a user gave.

  Raises:
    ValueError: something else was given; says what.
  """
  if isinstance(callbacks, (str, Mapping)) or not isinstance(
    callbacks, Sequence
  ):
    raise ValueError(
      f"callbacks={checks.shown(callbacks)}: must be a list of callbacks, such "
      "as [quped_jax.callbacks.CSV()]"
    )
  for i, callback in enumerate(callbacks):
    if not isinstance(callback, Callback):
      hint = ""
      if isinstance(callback, type) and issubclass(callback, Callback):
        hint = f", such as {callback.__name__}()"
      raise ValueError(
        f"callbacks[{i}]={checks.shown(callback)}: must be an instance of "
        f"quped_jax.Callback{hint}"
      )
    _check_hooks(f"callbacks[{i}]", type(callback))
  return list(callbacks)


def _check_hooks(field: str, kind: type[Callback]) -> None:
  """Raises a ValueError for a method that looks like a hook and is none.

  It would never be called, and nothing would say so.
  """
  hooks = [name for name in vars(Callback) if name.startswith("on_")]
  for name in dir(kind):
    if name.startswith("on_") and name not in hooks:
      raise ValueError(
        f"{field}={kind.__name__}: {name} is never called; methods that begin "
        f"with on_ must be among {', '.join(hooks)}"
        f"{checks.did_you_mean(name, hooks)}"
      )


def of_runs(make: Any, runs: Sequence[Any]) -> list[list[Callback]]:
  """The callbacks of each of several runs.

  Args:
    make: what a user gave, `run -> callbacks`, or None.
    runs: what it takes.

  Raises:
    ValueError: it makes no callbacks.
  """
  if make is None:
    return [[] for _ in runs]
  if not callable(make):
    raise ValueError(
      f"callbacks={checks.shown(make)}: must be a function that takes a run "
      "and makes its callbacks, such as "
      "lambda run: [quped_jax.callbacks.CSV()]"
    )
  return [check(make(run)) for run in runs]
