"""(i) Why QuPeD's clients do better than clients alone, on FEMNIST.

If it is what others know, a teacher that knows more should teach more, and one
that knows nothing should teach nothing. If it is that soft targets keep clients
from overfitting, smoothed labels should do as well. And if it is that training
was short, four times the rounds should tell. Clients are in full precision,
since quantization may keep them from overfitting too.
"""

from configs.paper import _personalized, b_femnist

_LOCAL = _personalized.TUNE["spaces"]["local"]
_FEDAVG_FT = _personalized.TUNE["spaces"]["fedavg_ft"]
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

# {name: (title, whose settings it has)}.
_LONG = {
  "long": ("Local training, four times the rounds", "local"),
  "long_quped": ("distill, four times the rounds", "quped"),
  "long_ft": ("FedAvg with fine-tuning, four times the rounds", "fedavg_ft"),
}

FULL = {
  "base": b_femnist.BASE,
  # The others are compared with local training.
  "methods": (
    *("local", "quped", "untaught", "smooth", "labels", "fast"),
    *("fedavg_ft", *_LONG),
  ),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": {
    **{name: {"method": "quped", **own} for name, (_, own, _) in _ROWS.items()},
    "smooth": {"method": "local"},
    **{
      name: {
        **_personalized.QUPED_VARIANTS.get(method, {}),
        "method": method,
        "rounds": 200,
      }
      for name, (_, method) in _LONG.items()
    },
  },
  "titles": {
    **{name: title for name, (title, _, _) in _ROWS.items()},
    **{name: title for name, (title, _) in _LONG.items()},
    "smooth": "Local training, smoothed labels",
  },
  "share": {
    f"{name}_32": f"{method}_32" for name, (_, method) in _LONG.items()
  },
  "tests": (
    *((name, "quped") for name in ("untaught", "smooth", "fast", "labels")),
    ("long_quped", "long"),
    ("long_ft", "long_quped"),
  ),
  "tune": {
    **b_femnist.FULL["tune"],
    "spaces": {
      **{name: space for name, (_, _, space) in _ROWS.items()},
      "local": _LOCAL,
      "fedavg_ft": _FEDAVG_FT,
      "smooth": {**_LOCAL, "label_smoothing": (0.1, 0.2, 0.4)},
    },
  },
}

SMALL = {
  **b_femnist.SMALL,
  "overrides": {name: {"rounds": 64} for name in _LONG},
}
