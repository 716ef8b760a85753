"""What a run has come to, as tables: its summary, and a row per client."""

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from quped_jax.simulation import divergence
from quped_jax.simulation.programs import SimulationState


def _spread(values: np.ndarray) -> dict[str, float]:
  """Accuracy over clients, as fractions."""
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


def table(accuracy: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
  """How each variant's accuracies, `[clients]`, are spread, as fractions."""
  return {name: _spread(values) for name, values in accuracy.items()}


def client_rows(made, accuracy) -> list[dict[str, Any]]:
  """What `clients.csv` holds: what each client has, and its accuracies."""
  train, test = (
    np.asarray(split.count)
    for split in (made.federation.train, made.federation.test)
  )
  client_types, sizes = made.assignment.client_types, made.model_bytes()
  several = len(made.models.clients) > 1
  return [
    {
      "client": i,
      "model": str(client_type.network) if several else made.model.name,
      "bits": client_type.bits,
      "model_bytes": int(sizes[i]),
      "train_samples": int(train[i]),
      "test_samples": int(test[i]),
      **{name: float(values[i]) for name, values in accuracy.items()},
    }
    for i in range(made.settings.clients)
    for client_type in [client_types[made.assignment.of_client[i]]]
  ]


def model_name(made) -> str:
  """The clients' network, or networks."""
  if len(made.models.clients) > 1:
    return ", ".join(made.models.clients)
  return made.model.name


def _client_types(made, accuracy) -> dict[str, dict[str, Any]]:
  """What clients of each type came to."""
  assignment = made.assignment.first(made.settings.clients)
  sizes, labels = made.model_bytes(), np.array(assignment.labels())
  rows = {}
  for client_type in assignment.client_types:
    own = labels == str(client_type)
    if own.any():
      rows[str(client_type)] = {
        "clients": int(own.sum()),
        "model_bytes": int(sizes[own][0]),
        "accuracy": table(
          {name: values[own] for name, values in accuracy.items()}
        ),
      }
  return rows


def budget_note(made) -> str:
  """What the budgets came to, in words."""
  assignment = made.assignment.first(made.settings.clients)
  sizes, labels = made.model_bytes(), np.array(assignment.labels())
  counts = [
    f"{np.sum(labels == str(client_type))} x {client_type} "
    f"({int(sizes[labels == str(client_type)][0]):,} bytes)"
    for client_type in assignment.client_types
    if np.any(labels == str(client_type))
  ]
  return "budgets allow: " + ", ".join(counts)


def _peak_rss() -> int:
  """Largest memory of this process so far, all its runs together, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def _device_peak() -> int | None:
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


def summarize(
  made,
  state: SimulationState,
  progress: Any,
  accuracy: dict[str, np.ndarray],
  diverged: Sequence[divergence.DivergenceReport],
) -> dict[str, Any]:
  """What `summary.json` holds, but for the time that all of it took."""
  settings, simulation = made.settings, made.simulation
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
    "accuracy": table(accuracy),
    **progress.best_rounds(),
    "client_types": _client_types(made, accuracy),
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
      "clients_at_once": simulation.layout.at_once,
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
  }
