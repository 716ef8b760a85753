"""(c) Clients of different resources on MNIST: what each kind gains.

Some 240 training samples a client: most samples are held out from all.
"""

from configs.paper import _personalized
from configs.paper.b_mnist import BASE as MNIST
from configs.paper.b_mnist import SMALL_BASE, SMALL_TUNE

_SPACES = _personalized.TUNE["spaces"]

FULL = {
  "base": {
    **MNIST,
    "partition": "dirichlet",
    "alpha": 1.0,
    # No method here looks at them.
    "public_size": 48_000,
  },
  # The others are compared with local training.
  "methods": ("local", "quped_labels", "quped", "fml"),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": _personalized.QUPED_VARIANTS,
  "titles": _personalized.TITLES,
  "parts": {
    "precisions": {
      "base": {"client_types": "16*cnn1@1, 17*cnn1@2, 17*cnn1@32"},
    },
    "networks": {"base": {"client_types": "25*cnn1@32, 25*cnn2@32"}},
    "both": {
      "base": {"client_types": "15*cnn1@1, 15*cnn1@2, 20*cnn2@32"},
    },
  },
  "tune": {
    **_personalized.TUNE,
    "gradients": 36_000,
    "rounds": 50,
    "spaces": {
      name: _SPACES[name] for name in ("local", "quped_labels", "quped", "fml")
    },
  },
}

SMALL = {
  "base": SMALL_BASE,
  "tune": SMALL_TUNE,
  "parts": {
    "precisions": {
      "base": {
        "client_types": "16*cnn1(8,16,64)@1, 17*cnn1(8,16,64)@2, "
        "17*cnn1(8,16,64)@32",
      },
    },
    "networks": {
      "base": {
        "client_types": "25*cnn1(8,16,64)@32, 25*cnn2(8,16,16,16,64)@32",
      },
    },
    "both": {
      "base": {
        "client_types": "15*cnn1(8,16,64)@1, 15*cnn1(8,16,64)@2, "
        "20*cnn2(8,16,16,16,64)@32",
      },
    },
  },
}
