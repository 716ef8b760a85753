"""Suite `uneven`: clients of several networks; more clients than fit.

1. A round of QuPeD over CNN1 at 1 bit, CNN1 at 2 bits and CNN2 at 32 bits, on
   random images, beside a round of each cohort alone.
2. Rounds of QuPeD over the digits' MLP (64-64-64-10, batch 16, 10 steps) on
   synthetic data, 1000 clients present in each: out of 4000 with states on the
   devices, and out of 4000 and 100,000 with states on the host.
"""

from typing import Any

import jax

import quped_jax as qj
from experiments.benchmarks import engine
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.timing import Contestant
from quped_jax.experiment.build_data import build_federation

# Rounds in a call: each round gathers what the next one needs.
_ROUNDS = 3


def run(bench: Bench) -> None:
  """Measures the suite."""
  _client_types(bench)
  _host(bench)


def _client_types(bench: Bench) -> None:
  shape = (28, 28, 1)
  parts = ["6*cnn1@1, 6*cnn1@2", "8*cnn2@32"]
  size: dict[str, Any] = {"steps": 2, "batch_size": 32}
  if bench.quick:
    shape, size = (6,), {"steps": 2, "batch_size": 2}
    parts = ["2*mlp(4,4)@32", "2*mlp(6,4)@32"]

  def rounds(client_types):
    clients = _clients(client_types)
    settings = qj.Settings(
      method="quped",
      clients=clients,
      client_types=client_types,
      model="mlp" if bench.quick else "cnn1",
      learning_rate=(0.01,),
      shared_learning_rate=0.01,
      **size,
    )
    federation = engine.random_federation(clients, shape, 64)
    return engine.Rounds(qj.build(settings, federation=federation)[0])

  rows = bench.measure(
    "client types",
    "round",
    [
      Contestant(client_types, rounds(client_types), 1)
      for client_types in (", ".join(parts), *parts)
    ],
    sizes=size,
    reference=", ".join(parts),
  )
  together, *alone = (row["seconds_min"] for row in rows.values())
  shown = {
    "seconds_together": together,
    "seconds_alone": sum(alone),
    "ratio": together / sum(alone),
  }
  bench.derive(
    "a round of all client types, and of each alone", {"client_types": shown}
  )


def _clients(client_types: str) -> int:
  return sum(int(part.split("*")[0]) for part in client_types.split(", "))


class _Rounds(engine.Rounds):
  """Several rounds in one call."""

  def __call__(self) -> None:
    self.state, metrics = self.simulation.run_rounds(self.state, _ROUNDS)
    jax.block_until_ready(metrics)


def _host(bench: Bench) -> None:
  few, many, present = (20, 50, 10) if bench.quick else (4000, 100_000, 1000)
  size = {"steps": 10, "batch_size": 16, "bits": (1, 2, 32)}
  if bench.quick:
    size = {"steps": 2, "batch_size": 2, "bits": (32,), "hidden": (4, 4)}

  def contestant(clients, where):
    settings = qj.Settings(
      dataset="synthetic",
      clients=clients,
      clients_per_round=present,
      client_state=where,
      method="quped",
      learning_rate=(0.01,),
      shared_learning_rate=0.01,
      **size,
    )
    simulation, _, _ = qj.build(settings, federation=build_federation(settings))
    name = f"{clients:,} clients, states on the {where}"
    rounds = _Rounds(simulation)
    return Contestant(
      name,
      rounds,
      _ROUNDS,
      details={
        "clients": clients,
        "state_bytes_per_client": rounds.client_bytes / clients,
      },
    )

  cases = ((few, "device"), (few, "host"), (many, "host"))
  bench.measure(
    f"{present:,} clients present",
    "round",
    [contestant(*case) for case in cases],
    sizes={k: v for k, v in size.items() if isinstance(v, int)},
    reference=f"{few:,} clients, states on the device",
  )
