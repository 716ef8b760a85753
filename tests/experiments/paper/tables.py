"""A table that is small enough for tests."""

import numpy as np

from experiments.paper.catalog import Part, Table
from experiments.paper.records import Record
from quped_jax.experiment.comparison.runs import Finished

CONFIG = {
  "base": {
    "clients": 3,
    "classes_per_client": 4,
    "rounds": 2,
    "steps": 2,
    "batch_size": 4,
    "hidden": (8, 8),
    "devices": 1,
  },
  "methods": ("quped", "local"),
  "bits": "32; 2",
  "seeds": (0, 1),
  "overrides": {},
  "titles": {"quped": "Ours"},
  "share": {"local_32": "local_2"},
  "tune": {
    # Of a client: three trials of local training in full precision.
    "gradients": 12,
    "halving": 0,
    "seeds": (0,),
    "rounds": 2,
    "validation_fraction": 0.3,
    "spaces": {"local": {"learning_rate": (0.01, 0.1, 0.2, 0.4)}},
  },
}


def table(**changes):
  """The table, with other fields of its config."""
  return Table("test", "small", (Part("", {**CONFIG, **changes}),))


TYPES = ("mlp@2", "mlp@2", "mlp@32", "mlp@32")


def record(scores, pooled=(), types=TYPES):
  """What a run came to that has such scores of its clients."""
  summary = {
    "primary_variant": "personalized",
    "gradients": 6,
    "clients": len(scores),
    "clients_per_round": len(scores),
    "bytes_up": 1000.0,
    "bytes_down": 1000.0,
    "held_out_clients": {},
    "timing": {
      "seconds_per_round": 0.5,
      "compile_seconds": 1.0,
      "total_seconds": 90.0,
    },
    "accuracy": {
      "personalized": {
        "mean": float(np.mean(scores)),
        "worst": min(scores),
        "p10": min(scores),
      }
    },
  }
  history = [
    {"round": 1.0, "test/personalized": 0.1},
    {"round": 2.0, "test/personalized": 0.2},
  ]
  for known, value in zip(history, pooled, strict=False):
    known["accuracy/test/personalized/pooled"] = value
  return Record(
    "0", Finished(summary, np.array(scores), history), (9, 9), types, 64e3
  )
