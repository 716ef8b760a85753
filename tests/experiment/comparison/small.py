"""A small comparison, a stub that runs it, and made-up results."""

import io
import pathlib
from typing import Any

import numpy as np
import rich.console

import quped_jax as qj
from configs import compare_digits
from quped_jax.experiment import identity
from quped_jax.experiment.comparison import runs, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.result import Comparison
from quped_jax.experiment.metrics import Writer


def make_config(**changes) -> dict[str, Any]:
  """A comparison of small runs; `base` changes some settings."""
  config = compare_digits.get_config().to_dict()
  config["base"] |= {
    "clients": 6,
    "held_out_clients": 2,
    "public_size": 20,
    "rounds": 2,
    "steps": 2,
    "eval_every": 1,
    "hidden": (8, 8),
    "devices": 1,
    **changes.pop("base", {}),
  }
  config["methods"] = ("local", "fedavg")
  # Without the tuned overrides, and with a space of known size.
  config["overrides"] = config["titles"] = {}
  config["tune"]["spaces"]["local"] = {"learning_rate": (0.02, 0.05, 0.1, 0.2)}
  config["tune"] |= {"trials": 2, "rounds": 2, **changes.pop("tune", {})}
  return {**config, **changes}


class Stub:
  """Leaves the files that `qj.run` leaves, and records what it should run.

  Args:
    validation: `settings -> accuracy on validation data`.
    stop_after: the number of runs after which it is interrupted.
  """

  def __init__(self, validation=lambda settings: 0.5, stop_after=None):
    self.settings: list[qj.Settings] = []
    self.folders: list[pathlib.Path] = []
    self._validation = validation
    self._stop_after = stop_after

  def __call__(self, settings, folder, *, display, resume):
    del display, resume
    writer = Writer(folder)
    writer.start(settings.to_dict(), identity.of_settings(settings))
    if len(self.folders) == self._stop_after:
      raise KeyboardInterrupt
    self.settings.append(settings)
    self.folders.append(folder)
    accuracy = np.linspace(0.5, 0.85, settings.clients) + 0.01 * settings.seed
    if settings.method == "fedavg":
      accuracy = accuracy + 0.1
    for round_ in range(1, settings.rounds + 1):
      writer.metrics(
        {
          "round": round_,
          "test/quantized": accuracy.mean(),
          "validation/quantized": self._validation(settings),
        }
      )
    writer.clients(
      [{"client": i, "quantized": x} for i, x in enumerate(accuracy)]
    )
    writer.summary(make_summary(settings, accuracy))


def make_summary(settings, accuracy) -> dict[str, Any]:
  spread = {
    "mean": float(accuracy.mean()),
    "worst": float(accuracy.min()),
    "p10": float(np.percentile(accuracy, 10)),
  }
  sent = 0 if settings.method == "local" else 1000
  held_out = {} if settings.method == "local" else {"quantized": spread}
  return {
    "primary_variant": "quantized",
    "accuracy": {"quantized": spread},
    "held_out_clients": held_out,
    "gradients": 4,
    "clients": settings.clients,
    "clients_per_round": settings.clients_per_round or settings.clients,
    "bytes_up": sent,
    "bytes_down": 2 * sent,
    "timing": {
      "seconds_per_round": 0.1,
      "compile_seconds": 0.0,
      "total_seconds": 2.0,
    },
  }


def quiet_console():
  return rich.console.Console(file=io.StringIO(), width=120)


def clients(seed, count=40):
  return np.random.default_rng(seed).uniform(0.6, 1.0, count)


def finished(seed, mean, *, sent=1000, primary_variant="quantized", shift=0.0):
  settings = qj.Settings(method="fedavg", rounds=2, seed=seed)
  accuracy = clients(seed) + shift
  summary = make_summary(settings, accuracy)
  summary["accuracy"]["quantized"]["mean"] = mean
  summary |= {"bytes_up": sent, "bytes_down": sent}
  if primary_variant != "quantized":
    summary["primary_variant"] = primary_variant
    summary["accuracy"][primary_variant] = summary["accuracy"]["quantized"]
    summary["held_out_clients"] = {"personalized": {"mean": 0.25}}
  history = [{"round": r, f"test/{primary_variant}": r / 10} for r in (1, 2)]
  return runs.Finished(summary, accuracy, history)


def make_results():
  first, second = Row("local", (32,)), Row("fedavg", (1, 2))
  return {
    first: {s: finished(s, m, sent=0) for s, m in ((0, 0.7), (1, 0.9))},
    second: {
      s: finished(s, m, primary_variant="global", shift=0.1)
      for s, m in ((0, 0.85), (1, 0.85))
    },
  }


def make_comparison(results=None, titles=None, **how) -> Comparison:
  """Made-up results as a comparison."""
  results = results or make_results()
  sizes = dict(zip(results, (4000.0, 1000.0, *[2000.0] * 98), strict=False))
  records = tables.make_records(results, sizes)
  counts = {seed: np.full(40, 20) for seed in (0, 1)}
  made = {"same_clients": False, "folder": None, **how}
  return Comparison(records, results, titles or {}, counts, **made)
