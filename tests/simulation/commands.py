"""Processes, started by commands, that simulate one federation together."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def start(*args):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.federated", *args],
    cwd=ROOT,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


SETTINGS = (
  "--config=configs/digits.py",
  "--config.clients=5",  # does not divide: one slot of three is empty
  "--config.held_out_clients=2",
  "--config.clients_per_round=4",
  "--config.bits=1,2",
  "--config.rounds=2",
  "--config.steps=3",
  "--config.save_models=clients",
)


SHORT = (
  "--config=configs/digits.py",
  "--config.method=fedavg",
  "--config.clients=4",
  "--config.bits=32",
  "--config.figures=False",
  "--config.steps=1",
  "--config.batch_size=8",
  "--config.eval_every=100",
  "--config.checkpoint_every=100",
)


def read(folder):
  summary = json.loads((folder / "summary.json").read_text())
  return summary, read_lines(folder / "metrics.jsonl")


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]
