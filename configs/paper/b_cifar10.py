"""(b) Personalized methods on CIFAR-10: 50 clients of 4 classes each, CNN1."""

from configs.paper import _personalized
from configs.paper.b_femnist import SMALL_TUNE
from configs.paper.b_mnist import BASE as MNIST

BASE = {
  **MNIST,
  "dataset": "cifar10",
  "classes_per_client": 4,
  "augment": "crop_flip",
  "rounds": 100,
  "steps": 40,
}

FULL = {
  **_personalized.TABLE,
  "base": BASE,
  "tune": {**_personalized.TUNE, "gradients": 144_000, "rounds": 100},
}

SMALL = {
  "base": {
    "hidden": (8, 16, 64),
    "augment": "none",
    "rounds": 16,
    "steps": 10,
    "batch_size": 16,
    "eval_every": 2,
  },
  "tune": SMALL_TUNE,
}
