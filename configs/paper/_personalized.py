"""The rows of the tables of personalized methods, and how they are tuned."""

# Those that are run with clients of less than full precision too.
_QUANTIZED = ("quped", "quped_labels", "local", "fedavg_ft", "ditto", "qupel")

# QuPeD with the paper's global loss, and with one that has labels too.
QUPED_VARIANTS = {
  "quped": {"quped": {"global_loss": "distill"}},
  "quped_labels": {
    "method": "quped",
    "quped": {"global_loss": "distill+labels"},
  },
}

TITLES = {
  "quped": "QuPeD (distill)",
  "quped_labels": "QuPeD (distill+labels)",
}

TABLE = {
  # The others of a precision are compared with the first.
  "methods": (
    "quped",
    "local",
    "fedavg_ft",
    "quped_labels",
    "ditto",
    "qupel",
    "fedavg",
    "apfl",
    "fedrep",
    "per_fedavg",
    "pfedme",
    "fml",
  ),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": {
    name: {**QUPED_VARIANTS.get(name, {}), "bits": "32; 2; 1"}
    for name in _QUANTIZED
  },
  "titles": TITLES,
  # What is chosen at 2 bits is taken at 1 bit.
  "share": {f"{name}_1": f"{name}_2" for name in _QUANTIZED},
}

RATES = {"learning_rate": (0.03, 0.06, 0.12)}
BOTH_RATES = {**RATES, "shared_learning_rate": (0.03, 0.1)}
QUPED = {**BOTH_RATES, "quped": {"lambda_p": (0.1, 0.25, 0.5)}}

TUNE = {
  "halving": 0,
  "seeds": (0,),
  "validation_fraction": 0.2,
  "spaces": {
    "quped": QUPED,
    "quped_labels": QUPED,
    "qupel": {**BOTH_RATES, "qupel": {"lambda_p": (0.1, 0.5, 2.0)}},
    "local": RATES,
    # The server takes the mean, as in all other methods here.
    "fedavg": RATES,
    "fedavg_ft": {**RATES, "fedavg_ft": {"adapt_steps": (5, 10, 20)}},
    "per_fedavg": {**RATES, "per_fedavg": {"alpha": (0.01, 0.03, 0.1)}},
    "pfedme": {
      **RATES,
      "pfedme": {"lambda_p": (5.0, 15.0), "eta": (0.02, 0.05)},
    },
    "ditto": {**BOTH_RATES, "ditto": {"lambda_p": (0.1, 0.5, 1.0)}},
    "apfl": {**BOTH_RATES, "apfl": {"alpha": (0.25, 0.5, 0.75)}},
    "fedrep": {**RATES, "fedrep": {"head_steps": (5, 0)}},  # 0: half
    "fml": {**BOTH_RATES, "fml": {"alpha": (0.3, 0.5, 0.7)}},
  },
}
