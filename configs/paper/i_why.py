"""(i) Why QuPeD's clients do better than clients alone, on FEMNIST.

If it is what others know, a teacher that knows more should teach more, and one
that knows nothing should teach nothing. If it is that soft targets keep clients
from overfitting, smoothed labels should do as well. Clients are in full
precision, since quantization may keep them from overfitting too.
"""

from configs.paper import _personalized, b_femnist

_LOCAL = _personalized.TUNE["spaces"]["local"]
# The global model's step size is given.
_GIVEN = {**_personalized.RATES, "quped": _personalized.QUPED["quped"]}

# {name: (title, what is set, what is tuned)}.
_ROWS = {
  "quped": (
    "QuPeD (distill)",
    {"quped": {"global_loss": "distill"}},
    _personalized.QUPED,
  ),
  "untaught": (
    "distill, the global model stays at its start",
    {"quped": {"global_loss": "distill"}, "shared_learning_rate": 0.0},
    _GIVEN,
  ),
  "fast": (
    "distill, the global model's step size 0.3",
    {"quped": {"global_loss": "distill"}, "shared_learning_rate": 0.3},
    _GIVEN,
  ),
  "labels": (
    "QuPeD (distill+labels)",
    {"quped": {"global_loss": "distill+labels"}},
    _personalized.QUPED,
  ),
}

FULL = {
  "base": b_femnist.BASE,
  # The others are compared with local training.
  "methods": ("local", "quped", "untaught", "smooth", "labels", "fast"),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": {
    **{name: {"method": "quped", **own} for name, (_, own, _) in _ROWS.items()},
    "smooth": {"method": "local"},
  },
  "titles": {
    **{name: title for name, (title, _, _) in _ROWS.items()},
    "smooth": "Local training, smoothed labels",
  },
  "tune": {
    **b_femnist.FULL["tune"],
    "spaces": {
      **{name: space for name, (_, _, space) in _ROWS.items()},
      "local": _LOCAL,
      "smooth": {**_LOCAL, "label_smoothing": (0.1, 0.2, 0.4)},
    },
  },
}

SMALL = b_femnist.SMALL
