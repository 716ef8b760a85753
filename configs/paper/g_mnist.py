"""(g) How much data, and how uneven: where each method wins, on MNIST.

A part for each number of samples that a client has, and of classes that it has
samples of. All other samples are held out from everyone.
"""

from configs.paper import _personalized, b_mnist
from configs.paper.b_mnist import SMALL_BASE, SMALL_TUNE

_METHODS = ("quped_labels", "local", "fedavg_ft", "ditto")
_SAMPLES = (20, 60, 240, 960)
_CLASSES = (2, 4, 10)

FULL = {
  "base": b_mnist.BASE,
  "methods": _METHODS,
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": _personalized.QUPED_VARIANTS,
  "titles": _personalized.TITLES,
  "figure": "map",
  "parts": {
    f"{samples} samples of {classes} classes": {
      "base": {
        "public_size": 60_000 - 50 * samples,
        "classes_per_client": classes,
      },
      "place": {"samples of a client": samples, "classes of a client": classes},
    }
    for samples in _SAMPLES
    for classes in _CLASSES
  },
  "tune": {
    **b_mnist.FULL["tune"],
    "gradients": 12_000,
    "spaces": {name: _personalized.TUNE["spaces"][name] for name in _METHODS},
  },
}

SMALL = {"base": SMALL_BASE, "tune": {**SMALL_TUNE, "gradients": 960}}
