"""What a run achieved, as tables: its summary, and a row for each client."""

import math
import pathlib
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from quped_jax import reading
from quped_jax.experiment import environment
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.settings import Settings
from quped_jax.quantization import codebook
from quped_jax.simulation import divergence
from quped_jax.simulation.measures import Measured
from quped_jax.simulation.state import SimulationState


def _spread(values: np.ndarray) -> dict[str, float]:
  """How scores, `[clients]`, are spread; {} where no client has one."""
  present = values[~np.isnan(values)]
  if not present.size:
    return {}
  return {
    "mean": float(np.mean(present)),
    "std": float(np.std(present)),
    "worst": float(np.min(present)),
    "p10": float(np.percentile(present, 10)),
    "best": float(np.max(present)),
  }


def table(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
  """How the clients' scores are spread: {variant: {statistic: value}}.

  Args:
    scores: {variant: float `[clients]`}, NaN for a client without samples.
  """
  return {name: _spread(values) for name, values in scores.items()}


def mean(values: np.ndarray) -> float:
  """The mean over clients that have a value; NaN if none has."""
  present = values[~np.isnan(values)]
  return float(np.mean(present)) if present.size else math.nan


def _measure(found: Measured) -> dict[str, float]:
  """How a measure is spread over clients, and of all samples together."""
  present = found.clients[~np.isnan(found.clients)]
  if not present.size:
    return {}
  return {
    "pooled": found.pooled,
    "mean": float(np.mean(present)),
    "std": float(np.std(present)),
    "min": float(np.min(present)),
    "p10": float(np.percentile(present, 10)),
    "p90": float(np.percentile(present, 90)),
    "max": float(np.max(present)),
  }


def client_rows(
  made: Assembly,
  scores: Mapping[str, np.ndarray],
  measures: Mapping[str, Mapping[str, Measured]],
) -> list[dict[str, Any]]:
  """A row per client: what each client has, and its scores.

  It is what `clients.csv` has, where a list, of names of groups, is JSON.

  Args:
    made: the run.
    scores: {variant: float `[clients]`} on test data.
    measures: {measure: {variant: Measured}} likewise.
  """
  train, test = (
    np.asarray(split.count)
    for split in (made.federation.train, made.federation.test)
  )
  client_types, sizes = made.assignment.client_types, made.model_bytes()
  several = len(made.models.clients) > 1
  groups = made.federation.groups
  own_steps = made.population.participation.own_steps

  def row(i: int) -> dict[str, Any]:
    client_type = client_types[made.assignment.of_client[i]]
    return {
      "client": i,
      "model": str(client_type.network) if several else made.model.name,
      "bits": client_type.bits,
      "model_bytes": int(sizes[i]),
      "train_samples": int(train[i]),
      "test_samples": int(test[i]),
      **({} if own_steps is None else {"steps": int(own_steps[i])}),
      **({} if groups is None else {"groups": list(groups[i])}),
      **{name: float(values[i]) for name, values in scores.items()},
      **{
        f"{measure}/{name}": float(found.clients[i])
        for measure, variants in measures.items()
        for name, found in variants.items()
      },
    }

  return [row(i) for i in range(made.settings.clients)]


def model_name(made: Assembly) -> str:
  """The name of the clients' network; of several, all names."""
  if len(made.models.clients) > 1:
    return ", ".join(made.models.clients)
  return made.model.name


def _members(made: Assembly) -> dict[str, np.ndarray]:
  """{client type: which clients are of it, bool `[clients]`}; none is empty."""
  assignment = made.assignment.first(made.settings.clients)
  labels = np.array(assignment.labels())
  members = {str(x): labels == str(x) for x in assignment.client_types}
  return {name: own for name, own in members.items() if own.any()}


def _client_types(
  made: Assembly, scores: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
  """Number, sizes of models and messages, and scores of each type's clients."""
  score = scores_lib.of_run(made.settings)
  sizes = made.model_bytes()

  def row(own):
    down, up = _traffic(made, int(np.flatnonzero(own)[0]))
    return {
      "clients": int(own.sum()),
      "model_bytes": int(sizes[own][0]),
      "bytes_up": up,
      "bytes_down": down,
      score.name: table({v: values[own] for v, values in scores.items()}),
    }

  return {name: row(own) for name, own in _members(made).items()}


def _traffic(made: Assembly, client_id: int) -> tuple[float, float]:
  """Bytes that a client receives in a round, and that it sends."""
  bits = int(made.assignment.bits[client_id])
  (cohort,) = (
    name for name, (_, ids) in made.cohorts().items() if client_id in ids
  )
  return made.simulation.traffic(cohort, bits)


def budget_note(made: Assembly) -> str:
  """Which client types the budgets led to, in words."""
  sizes = made.model_bytes()
  counts = [
    f"{own.sum()} x {name} ({int(sizes[own][0]):,} bytes)"
    for name, own in _members(made).items()
  ]
  return "budgets allow: " + ", ".join(counts)


def _peak_rss() -> int:
  """Peak memory of this process so far, over all its runs, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def _device_peak() -> int | None:
  """Peak memory of the first device, in bytes; None if it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


def summarize(
  made: Assembly,
  state: SimulationState,
  progress: Any,
  scores: Mapping[str, np.ndarray],
  diverged: Sequence[divergence.DivergenceReport],
  measures: Mapping[str, Mapping[str, Measured]],
) -> dict[str, Any]:
  """The content of `summary.json`, without the run's total time.

  Args:
    made: the run.
    state: after the last round.
    progress: see `quped_jax.experiment.resume.Progress`.
    scores: {variant: float `[clients]`} on test data after the last round.
    diverged: the clients that ever diverged.
    measures: {measure: {variant: Measured}} likewise, beside the scores.
  """
  settings, simulation = made.settings, made.simulation
  score = scores_lib.of_run(settings)
  return {
    "method": settings.method,
    "dataset": made.federation.name,
    "model": model_name(made),
    "bits": list(settings.turns),
    "seed": settings.seed,
    "clients": settings.clients,
    "clients_per_round": made.population.participation.mean(settings.clients),
    "rounds": settings.rounds,
    "steps": settings.steps,
    "primary_variant": simulation.primary_variant,
    **scores_lib.says(score),
    score.name: table(scores),
    **progress.best_rounds(score.name),
    **_measures(measures),
    "client_types": _client_types(made, scores),
    "held_out_clients": table(made.evaluate_held_out(state)),
    "diverged": [
      {"client": x.client, "rounds": x.undone, "in_a_row": x.longest}
      for x in diverged
    ],
    "privacy": made.privacy,
    "gradients": simulation.gradients,
    "bytes_up": simulation.bytes_up,
    "bytes_down": simulation.bytes_down,
    "timing": {
      "seconds_per_round": float(np.median(progress.seconds)),
      "compile_seconds": simulation.compile_seconds(),
      "strategy": settings.strategy,
      "clients_at_once": simulation.layout.at_once,
      "why": simulation.layout.why,
      "devices": simulation.layout.devices,
    },
    "memory": {
      "round_bytes": simulation.program.memory,
      "estimated_round_bytes": simulation.memory,
      "peak_rss_bytes": _peak_rss(),
      "device_peak_bytes": _device_peak(),
      "client_state_bytes": simulation.state_bytes,
      "data_bytes": simulation.data_bytes,
    },
    "environment": environment.here(),
  }


def _measures(
  measures: Mapping[str, Mapping[str, Measured]],
) -> dict[str, Any]:
  """What a summary says of measures: nothing, unless there are some."""
  if not measures:
    return {}
  return {
    "metrics": {
      name: {variant: _measure(found) for variant, found in variants.items()}
      for name, variants in measures.items()
    }
  }


def in_a_line(summary: Mapping[str, Any]) -> str:
  """What was run, and how well it did."""
  score = scores_lib.of_summary(summary)
  shown = ", ".join(
    f"{name} {score.text(spread['mean'])}"
    for name, spread in summary[score.name].items()
    if spread
  )
  return (
    f"{summary['method']} on {summary['dataset']}, "
    f"{codebook.describe_bits(summary['bits'])}, "
    f"{summary['clients']} clients, round {summary['rounds']}: {shown}"
  )


def stopped(progress: Any, settings: Settings, why: str) -> dict[str, Any]:
  """What the summary of a run says that a callback stopped early.

  Args:
    progress: see `quped_jax.experiment.resume.Progress`.
    settings: of the run.
    why: the reason, in words.
  """
  done = progress.history[-1]["round"]
  left = settings.rounds - done
  return {"rounds": done, "stopped": {"why": why, "rounds_left": left}}


def is_whole(folder: pathlib.Path) -> bool:
  """Whether a folder has the summary of a run that went through all rounds.

  One that cannot be read counts: whoever reads it says what is wrong.
  """
  path = folder / "summary.json"
  if not path.is_file():
    return False
  try:
    return not reading.read_json(path).get("stopped")
  except (OSError, ValueError, AttributeError):
    return True
