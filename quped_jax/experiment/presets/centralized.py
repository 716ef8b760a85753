"""Presets of one quantized model on a whole dataset: QuPeD's Algorithm 1."""

from typing import Any

_SHARED: dict[str, Any] = {
  "method": "local",
  "clients": 1,
  "partition": "iid",
  "epochs": 1,  # a round
}


def _centralized(dataset: str, rounds: int, **network: Any) -> dict[str, Any]:
  return {
    **_SHARED,
    "dataset": dataset,
    "train_fraction": 0.8,  # for digits, which has no test split of its own
    "bits": (2,),
    "optimizer": "momentum",
    "learning_rate": (0.02,),
    "centers_learning_rate": (1e-4,),
    "strength": 1e-5,  # times (epoch + 1)
    "finetune_at": int(0.8 * rounds),
    "finetune_centers_learning_rate": 1e-5,
    "rounds": rounds,
    **network,
  }


CENTRALIZED = {
  "digits": _centralized(
    "digits", 60, model="mlp", hidden=(64, 64), batch_size=32
  ),
  "mnist": _centralized("mnist", 10, model="cnn1", batch_size=64),
  "fashion_mnist": _centralized(
    "fashion_mnist", 20, model="cnn1", batch_size=64
  ),
  "cifar10": _centralized(
    "cifar10", 40, model="cnn1", batch_size=64, augment="crop_flip"
  ),
}

# The recipe of QuPeD's released code for ResNet-20; configs/
# cifar10_centralized.py says what differs from it.
_RELEASED: dict[str, Any] = {
  **_SHARED,
  "dataset": "cifar10",
  "augment": "crop_flip",
  "model": "resnet20",
  "rounds": 250,
  "batch_size": 128,
  "bits": (1,),
  "estimator": "hard",
  "weight_clip": 1.0,
  "strength": 1e-4,  # times (epoch + 1)
  "centers_learning_rate": (1e-4,),
  "centers_drops": (80, 140),  # epochs: 1e-5, then 1e-6
  "centers_clip": 10.0,
  "finetune_at": 200,
  "finetune_centers_learning_rate": 1e-6,
  "recalibration_batches": 20,
}

CIFAR10_CENTRALIZED = {
  "sgd": {
    **_RELEASED,
    "optimizer": "momentum",
    "momentum": 0.9,
    "learning_rate": (0.1,),
    "learning_rate_drops": (100, 150),  # epochs, x0.1 each
    "strength_drop_factor": 10.0,
  },
  "adam": {
    **_RELEASED,
    "optimizer": "adam",
    "learning_rate": (1e-2,),
    "outer_level": 1.0,
  },
}
