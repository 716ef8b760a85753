"""(h) Beyond the paper: the idea of `h_longer`, on data it was not chosen on.

Five fresh seeds, and twice the rounds of (b); each row is tuned anew, on
validation samples of seed 0.
"""

from configs.paper import _personalized, b_cifar10, b_mnist
from configs.paper.h_longer import SPACES

_LABELS = {"global_loss": "distill+labels"}
# The value with the highest validation accuracy in `h_longer`.
_BLEND = 0.5

FULL = {
  "base": {**b_mnist.BASE, "rounds": 100},
  "methods": ("quped_labels", "quped_blend", "fedavg_ft"),
  "bits": "2",
  "seeds": (10, 11, 12, 13, 14),
  "overrides": {
    "quped_labels": {"method": "quped", "quped": _LABELS},
    "quped_blend": {"method": "quped", "quped": {**_LABELS, "blend": _BLEND}},
  },
  "titles": {
    **_personalized.TITLES,
    "quped_blend": f"QuPeD (distill+labels), blend {_BLEND:g}",
  },
  "tests": (("quped_blend", "quped_labels"), ("quped_blend", "fedavg_ft")),
  "parts": {
    "MNIST": {},
    "CIFAR-10": {
      "base": {**b_cifar10.BASE, "rounds": 200},
      "tune": {"gradients": 288_000, "rounds": 200},
    },
  },
  "tune": {
    **b_mnist.FULL["tune"],
    "gradients": 72_000,
    "rounds": 100,
    "spaces": {
      "quped_labels": SPACES["quped"],
      "quped_blend": SPACES["quped"],
      "fedavg_ft": SPACES["fedavg_ft"],
    },
  },
}

SMALL = {
  "base": {**b_mnist.SMALL_BASE, "rounds": 24},
  "tune": {**b_mnist.SMALL_TUNE, "gradients": 2880, "rounds": 24},
  "parts": {
    "MNIST": {},
    "CIFAR-10": {
      "base": {**b_cifar10.SMALL["base"], "rounds": 32},
      "tune": {"gradients": 3840, "rounds": 32},
    },
  },
}
