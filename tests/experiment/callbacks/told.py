"""What callbacks are told, made up."""

import pathlib
from typing import Any

import quped_jax as qj
from quped_jax.experiment import scores
from quped_jax.experiment.callbacks.base import Evaluation, RunEnd, RunStart

METRICS = {"loss": 1.0, "test/quantized": 0.5, "test/global": 0.255}


def start(
  workdir: pathlib.Path | None = None, round_: int = 0, **changes: Any
) -> RunStart:
  given = {"method": "quped", "clients": 10, "rounds": 4, **changes}
  settings = qj.Settings(**given)
  return RunStart(
    settings=settings,
    workdir=workdir,
    round=round_,
    history=tuple(evaluation(r + 1).metrics for r in range(round_)),
    dataset="digits",
    model="mlp",
    primary_variant="quantized",
    score=scores.of_run(settings).name,
    devices=2,
    clients_at_once=4,
  )


def evaluation(round_: int = 1, **changes: Any) -> Evaluation:
  values: dict[str, Any] = {
    "round": round_,
    "metrics": {"round": round_, **METRICS},
    "seconds_per_round": 0.25,
    "bytes_up": 1e6 * round_,
    "bytes_down": 2e6 * round_,
    "diverged": (),
  }
  return Evaluation(**{**values, **changes})


def end(reason: Any = "finished", round_: int = 4, **changes: Any) -> RunEnd:
  summary = {
    "method": "quped",
    "rounds": round_,
    "accuracy": {"quantized": {"mean": 0.5, "worst": None}},
    "client_types": {"mlp@1": {"clients": 10}},
  }
  values: dict[str, Any] = {
    "summary": summary if reason in ("finished", "stopped") else None,
    "error": None,
    "note": "",
  }
  return RunEnd(reason, round_, **{**values, **changes})


def play(
  callback: qj.Callback, workdir: pathlib.Path | None, rounds: range, end_: Any
) -> None:
  """Tells a callback of a run that goes through some rounds."""
  callback.on_begin(start(workdir, rounds.start - 1))
  for round_ in rounds:
    callback.on_rounds(round_, round_)
    callback.on_evaluation(evaluation(round_))
  callback.on_end(end_)
