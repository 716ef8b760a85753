"""Workdirs as runs and comparisons leave them, made without running any."""

import csv
import json
import pathlib
from typing import Any

import numpy as np

import quped_jax as qj
from quped_jax.experiment.report import workdirs

VARIANTS = "personalized", "quantized", "global"
# In names of files and methods, and in all text that is read: it must stay
# text.
HOSTILE = "<script>alert('&\"')</script>"


def run(
  folder: pathlib.Path,
  *,
  clients: int = 6,
  rounds: int = 4,
  finished: bool = True,
  diverged: tuple[int, ...] = (),
  summary: dict[str, Any] | None = None,
  **settings: Any,
) -> pathlib.Path:
  """Writes the files of a run on digits; returns its folder.

  Args:
    folder: its workdir, which is made.
    clients: how many there are.
    rounds: how many are evaluated.
    finished: whether it has a summary and a table of clients.
    diverged: clients that diverged once.
    summary: what else its summary says, or says otherwise.
    **settings: that are not defaults.
  """
  folder.mkdir(parents=True)
  bits = settings.setdefault("bits", (1, 32))
  made = qj.Settings(clients=clients, rounds=rounds, **settings)
  write(folder / "config.json", made.to_dict())
  identity = made.identity() | {
    "version of quped_jax": "0.1.0",
    "version of jax": "0.10.2",
    "data": "abcdef",
    "initial state": "fresh weights",
  }
  write(folder / "identity.json", identity)
  lines = [
    {"round": i, **{f"test/{v}": 0.9 - 0.5 / i for v in VARIANTS}}
    for i in range(1, rounds + 1)
  ]
  text = "".join(f"{json.dumps(line)}\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
  if not finished:
    return folder
  rows = client_rows(clients, bits)
  with (folder / "clients.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
  spread = {"mean": 0.9, "std": 0.05, "worst": 0.8, "p10": 0.85, "best": 1.0}
  scores = {name: spread for name in VARIANTS}
  write(
    folder / "summary.json",
    {
      "method": made.method,
      "dataset": "digits",
      "model": "mlp",
      "bits": list(bits),
      "seed": made.seed,
      "clients": clients,
      "clients_per_round": clients,
      "rounds": rounds,
      "steps": made.steps,
      "primary_variant": "quantized",
      "accuracy": scores,
      "best_round": None,
      "accuracy_best_round": None,
      "client_types": {
        f"mlp@{b}": {
          "clients": 1,
          "model_bytes": 1000 * b,
          "bytes_up": 4000,
          "bytes_down": 8000,
          "accuracy": scores,
        }
        for b in bits
      },
      "held_out_clients": {},
      "diverged": [{"client": i, "rounds": 1, "in_a_row": 1} for i in diverged],
      "privacy": None,
      "gradients": 80,
      "bytes_up": 4000.0,
      "bytes_down": 8000.0,
      "timing": {
        "seconds_per_round": 0.125,
        "compile_seconds": 2.5,
        "total_seconds": 200.0,
      },
      "environment": {"python": "3.11.2", "device": "cpu"},
      **(summary or {}),
    },
  )
  return folder


def client_rows(clients: int, bits: tuple[int, ...]) -> list[dict[str, Any]]:
  """The rows of `clients.csv`; scores rise and fall from client to client."""
  scores = np.round(0.75 + 0.25 * np.sin(np.arange(clients)), 3)
  return [
    {
      "client": i,
      "model": "mlp",
      "bits": bits[i % len(bits)],
      "model_bytes": 1000 * bits[i % len(bits)],
      "train_samples": 10 + i,
      "test_samples": 20,
      **{name: scores[i] for name in VARIANTS},
    }
    for i in range(clients)
  ]


def comparison(folder: pathlib.Path) -> pathlib.Path:
  """Writes the files of a comparison of two methods; returns its folder."""
  for method in ("quped", "local"):
    run(folder / "runs" / f"{method}_1_seed0", method=method, bits=(1,))
  (folder / "table.csv").write_text(
    "method,bits,variant,accuracy,std,difference_mean,bytes\n"
    "quped,1,quantized,0.9676,,,71760.0\n"
    f'"{HOSTILE.replace(chr(34), 2 * chr(34))}",1,quantized,0.8,,-0.1676,0.0\n'
  )
  return folder


def write(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file."""
  path.write_text(json.dumps(value))


def read(folder: pathlib.Path) -> workdirs.Run:
  """What is read of the folder of a run."""
  (found,) = workdirs.read([folder])
  assert isinstance(found, workdirs.Run)
  return found


def read_comparison(folder: pathlib.Path) -> workdirs.Comparison:
  """What is read of the folder of a comparison."""
  (found,) = workdirs.read([folder])
  assert isinstance(found, workdirs.Comparison)
  return found
