"""(h) Beyond the paper: the idea of `h_choose`, on data it was not chosen on.

Five fresh seeds; each row is tuned anew, on validation samples of seed 0.
"""

from configs.paper import _personalized, b_cifar10, b_mnist

_LABELS = {"global_loss": "distill+labels"}
# The value with the highest validation accuracy in `h_choose`.
_BLEND = 1.0

FULL = {
  "base": b_mnist.BASE,
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
      "base": b_cifar10.BASE,
      "tune": {
        name: b_cifar10.FULL["tune"][name] for name in ("gradients", "rounds")
      },
    },
  },
  "tune": {
    **b_mnist.FULL["tune"],
    "spaces": {
      "quped_labels": _personalized.QUPED,
      "quped_blend": _personalized.QUPED,
      "fedavg_ft": _personalized.TUNE["spaces"]["fedavg_ft"],
    },
  },
}

SMALL = {
  "base": b_mnist.SMALL_BASE,
  "tune": b_mnist.SMALL_TUNE,
  "parts": {"MNIST": {}, "CIFAR-10": b_cifar10.SMALL},
}
