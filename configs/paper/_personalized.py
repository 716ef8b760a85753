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
  "seeds": (0, 1, 2, 3, 4),
  "overrides": {
    name: {**QUPED_VARIANTS.get(name, {}), "bits": "32; 2; 1"}
    for name in _QUANTIZED
  },
  "titles": TITLES,
}

# Of a client's own model beside a shared one.
RATES = {"learning_rate": (0.03, 0.06, 0.12)}
# The shared model beside it may learn from labels; or from clients' models,
# which is slower, since its gradient has the weight lambda_p.
_SHARED = {**RATES, "shared_learning_rate": (0.1, 0.3)}
_TAUGHT = {**RATES, "shared_learning_rate": (0.03, 0.1, 0.3)}
# Of a model that is the only one.
ALONE = {"learning_rate": (0.03, 0.06, 0.12, 0.24)}
QUPED = {**_TAUGHT, "quped": {"lambda_p": (0.1, 0.25, 0.5)}}

TUNE = {
  "halving": 0,
  "same_draws": True,
  "seeds": (0,),
  "validation_fraction": 0.2,
  "spaces": {
    "quped": QUPED,
    "quped_labels": QUPED,
    "qupel": {**_TAUGHT, "qupel": {"lambda_p": (0.1, 0.5, 2.0)}},
    "local": {"learning_rate": (0.015, 0.03, 0.06, 0.12)},
    # The server takes the mean, as in all other methods here.
    "fedavg": ALONE,
    "fedavg_ft": {
      **ALONE,
      "fedavg_ft": {
        "adapt_steps": (5, 20),
        "adapt_learning_rate": (0.003, 0.01, 0.03),
      },
    },
    "per_fedavg": {**ALONE, "per_fedavg": {"alpha": (0.003, 0.01, 0.03)}},
    # Its inner steps have to be small against 2 / lambda_p.
    "pfedme": {
      "learning_rate": (0.01, 0.03, 0.06),
      "pfedme": {"lambda_p": (5.0, 15.0), "eta": (0.05,)},
    },
    "ditto": {**_SHARED, "ditto": {"lambda_p": (0.1, 0.5, 1.0)}},
    "apfl": {**_SHARED, "apfl": {"alpha": (0.25, 0.5, 0.75)}},
    "fedrep": {**ALONE, "fedrep": {"head_steps": (2, 5, 8)}},
    "fml": {**_TAUGHT, "fml": {"alpha": (0.3, 0.5, 0.7)}},
  },
}
