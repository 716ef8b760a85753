"""A preset on text: characters of this package's own files."""

from typing import Any

TEXT: dict[str, Any] = {
  "dataset": "own_source",
  "clients": 20,
  "partition": "natural",
  "groups_per_client": 4,
  "model": "transformer",
  "method": "quped",
  "rounds": 30,
  "steps": 20,
  "batch_size": 32,
  "bits": (1, 2, 4, 32),
  "optimizer": "adam",
  "learning_rate": (3e-3,),
  "shared_optimizer": "adam",
  "shared_learning_rate": 3e-3,
  "weight_clip": 0.0,
  "eval_every": 5,
}
