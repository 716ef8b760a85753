"""(a) One quantized model on all of CIFAR-10: ResNet-8 and ResNet-20."""

from configs.paper import _centralized

FULL = {
  **_centralized.TABLE,
  "base": {
    **_centralized.BASE,
    "dataset": "cifar10",
    "augment": "crop_flip",
    "rounds": 100,
    "batch_size": 128,
    "weight_decay": 1e-4,
    "learning_rate_drops": (50, 75),
    "recalibration_batches": 20,
    "eval_every": 10,
  },
  "parts": {
    "ResNet-8": {"base": {"model": "resnet8"}},
    "ResNet-20": {"base": {"model": "resnet20"}},
  },
  # As many gradients as three trials with the estimator "soft" take.
  "tune": {**_centralized.TABLE["tune"], "gradients": 315_900, "rounds": 100},
}

SMALL = {
  "base": {
    "epochs": 0,
    "steps": 50,
    "batch_size": 32,
    "rounds": 8,
    "learning_rate_drops": (6,),
    "eval_every": 4,
  },
  "tune": {"gradients": 3600, "rounds": 8},
}
