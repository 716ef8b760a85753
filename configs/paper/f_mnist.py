"""(f) Families of distillation on MNIST: accuracy against bytes.

Some share a model that nobody adapts, such as FedAvg: with 3 classes a client
that is a harder task than a model of one's own.
"""

from configs.paper import _personalized, b_mnist
from configs.paper.b_mnist import SMALL_BASE, SMALL_TUNE
from quped_jax.experiment.presets.compare_digits import COMPARE_DIGITS

_METHODS = (
  "quped",
  "quped_labels",
  "local",
  "fedavg",
  # Outputs on own data; on public data; at the server; models; generators.
  "fd",
  "fedproto",
  "fedmd",
  "ds_fl",
  "cfd",
  "cronus",
  "feddf",
  "fedbe",
  "fedaux",
  "fedgkt",
  "fml",
  "fedkd",
  "fedgkd",
  "fedntd",
  "fedcad",
  "fedssd",
  "fedmlb",
  "fedgen",
  "fedftg",
  "fedzkt",
)
_OWN = _personalized.TUNE["spaces"]
_SPACES = COMPARE_DIGITS["tune"]["spaces"]

FULL = {
  "base": {**b_mnist.BASE, "public_size": 1000},
  "methods": _METHODS,
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": _personalized.QUPED_VARIANTS,
  "titles": _personalized.TITLES,
  "figure": "bytes",
  "tune": {
    **b_mnist.FULL["tune"],
    "spaces": {
      name: _OWN.get(name)
      or {
        field: _personalized.ALONE["learning_rate"]
        if field.endswith("learning_rate")
        else values
        for field, values in _SPACES[name].items()
      }
      for name in _METHODS
    },
  },
}

SMALL = {"base": SMALL_BASE, "tune": SMALL_TUNE}
