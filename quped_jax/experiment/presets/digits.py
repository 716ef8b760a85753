"""Presets on scikit-learn's handwritten digits, and on data of that size."""

from typing import Any

DIGITS: dict[str, Any] = {
  "dataset": "digits",
  "clients": 40,
  "partition": "pathological",
  "classes_per_client": 3,
  "train_fraction": 0.5,
  "model": "mlp",  # 64-64-64-10: one quantized kernel, 64 x 64
  "hidden": (64, 64),
  "method": "quped",
  "rounds": 40,
  "steps": 40,
  "batch_size": 16,
  "bits": (1,),
  "learning_rate": (0.05,),
  "shared_learning_rate": 0.05,
  "centers_learning_rate": (1e-3,),
  "centers_clip": 10.0,
  "strength": 1e-4,  # times (round + 1)
  "sharpness": 50.0,  # about 10 gaps between the two levels at the start
  "sharpness_unit": "absolute",
  "quped": {
    "lambda_p": 0.5,
    "temperature": 3.0,
    "global_loss": "distill+labels",
  },
}

# Little data per client, where one shared model does better.
SCARCE: dict[str, Any] = {
  **DIGITS,
  "clients": 30,
  "classes_per_client": 5,
  "train_fraction": 0.3,
  "rounds": 100,
  "steps": 10,
  "eval_every": 5,
}

MANY_CLIENTS: dict[str, Any] = {
  **DIGITS,
  "dataset": "synthetic",
  "clients": 100_000,
  "clients_per_round": 1000,
  "client_state": "host",
  "rounds": 10,
  "steps": 10,
  "bits": (1, 2, 32),
  "eval_every": 10,
}
