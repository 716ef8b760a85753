"""(b) Personalized methods on MNIST: 50 clients of 3 classes each, CNN1."""

from configs.paper import _personalized
from configs.paper.b_femnist import BASE as FEMNIST
from configs.paper.b_femnist import SMALL_BASE

BASE = {
  **FEMNIST,
  "dataset": "mnist",
  "clients": 50,
  "partition": "pathological",
  "classes_per_client": 3,
}

FULL = {
  **_personalized.TABLE,
  "base": BASE,
  "tune": {**_personalized.TUNE, "gradients": 36_000, "rounds": 50},
}

SMALL = {"base": SMALL_BASE, "tune": {"gradients": 4800, "rounds": 20}}
