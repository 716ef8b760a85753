"""(b) Personalized methods on MNIST: 50 clients of 3 classes each, CNN1."""

from configs.paper import _personalized
from configs.paper.b_femnist import BASE as FEMNIST
from configs.paper.b_femnist import SMALL_BASE as SMALL_FEMNIST
from configs.paper.b_femnist import SMALL_TUNE as SMALL_FEMNIST_TUNE

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

SMALL_BASE = {**SMALL_FEMNIST, "rounds": 12}
SMALL_TUNE = {**SMALL_FEMNIST_TUNE, "gradients": 1440, "rounds": 12}

SMALL = {"base": SMALL_BASE, "tune": SMALL_TUNE}
