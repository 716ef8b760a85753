"""The rows of the tables of personalized methods, and how they are tuned."""

# Those that are compared with clients of less than full precision too.
_QUANTIZED = ("quped", "local", "fedavg_ft", "ditto", "qupel")
METHODS = (
  "quped",
  "local",
  "fedavg_ft",
  "ditto",
  "fedavg",
  "qupel",
  "apfl",
  "fedrep",
  "per_fedavg",
  "pfedme",
  "fml",
  "quped_labels",
)

OVERRIDES = {
  **{name: {"bits": "32; 2; 1"} for name in _QUANTIZED},
  "quped": {"bits": "32; 2; 1", "quped": {"global_loss": "distill"}},
  "quped_labels": {
    "method": "quped",
    "bits": "32; 2; 1",
    "quped": {"global_loss": "distill+labels"},
  },
}

TITLES = {"quped": "QuPeD (distill)", "quped_labels": "QuPeD (distill+labels)"}

# What is chosen at 2 bits is taken at 1 bit.
SHARE = {f"{name}_1": f"{name}_2" for name in (*_QUANTIZED, "quped_labels")}

_RATES = {"learning_rate": (0.01, 0.03, 0.1, 0.3)}
_BOTH = {**_RATES, "shared_learning_rate": (0.01, 0.03, 0.1, 0.3)}

SPACES = {
  "quped": {**_BOTH, "quped": {"lambda_p": (0.25, 0.5, 0.75)}},
  "quped_labels": {**_BOTH, "quped": {"lambda_p": (0.25, 0.5, 0.75)}},
  "qupel": {**_BOTH, "qupel": {"lambda_p": (0.1, 0.5, 2.0)}},
  "local": _RATES,
  "fedavg": {**_RATES, "fedavg": {"server_learning_rate": (0.5, 1.0, 1.5)}},
  "fedavg_ft": {**_RATES, "fedavg_ft": {"adapt_steps": (5, 10, -1)}},
  "per_fedavg": {**_RATES, "per_fedavg": {"alpha": (0.01, 0.03, 0.1)}},
  "pfedme": {
    **_RATES,
    "pfedme": {"lambda_p": (5.0, 15.0), "eta": (0.02, 0.05)},
  },
  "ditto": {**_BOTH, "ditto": {"lambda_p": (0.1, 0.5, 1.0)}},
  "apfl": {**_BOTH, "apfl": {"alpha": (0.25, 0.5, 0.75)}},
  "fedrep": {**_RATES, "fedrep": {"head_steps": (5, 0)}},  # 0: half
  "fml": {**_BOTH, "fml": {"alpha": (0.3, 0.5, 0.7)}},
}

TABLE = {
  "methods": METHODS,
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": OVERRIDES,
  "titles": TITLES,
  "share": SHARE,
}
