"""(c) Clients of different resources on MNIST: what each kind gains.

Some 240 training samples a client: most samples are held out from all. Clients
in full precision take twice the step size of others, whose gradient is that of
two losses.
"""

from configs.paper import _personalized
from configs.paper.b_mnist import BASE as MNIST
from configs.paper.b_mnist import SMALL_BASE, SMALL_TUNE

_METHODS = ("local", "quped_labels", "quped")


def _tune(*types: float):
  """Spaces where the step sizes of client types are to each other as these."""
  spaces = {}
  for name in _METHODS:
    space = _personalized.TUNE["spaces"][name]
    rates = tuple(
      tuple(rate * own for own in types) for rate in space["learning_rate"]
    )
    spaces[name] = {**space, "learning_rate": rates}
  return {"spaces": spaces}


FULL = {
  "base": {
    **MNIST,
    "partition": "dirichlet",
    "alpha": 1.0,
    # No method here looks at them.
    "public_size": 48_000,
  },
  # The others are compared with local training.
  "methods": _METHODS,
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": _personalized.QUPED_VARIANTS,
  "titles": _personalized.TITLES,
  "parts": {
    "precisions": {
      "base": {"client_types": "16*cnn1@1, 17*cnn1@2, 17*cnn1@32"},
      "tune": _tune(1, 1, 2),
    },
    "networks": {
      "base": {"client_types": "25*cnn1@32, 25*cnn2@32"},
      "tune": _tune(1, 1),
    },
    "both": {
      "base": {"client_types": "15*cnn1@1, 15*cnn1@2, 20*cnn2@32"},
      "tune": _tune(1, 1, 2),
    },
  },
  "tune": {
    **_personalized.TUNE,
    "gradients": 36_000,
    "rounds": 50,
    "spaces": {},  # See `parts`.
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
