"""All methods side by side on digits, see experiments/comparison/plan.py."""

import ml_collections

from configs import digits


def _base():
  """What all runs share."""
  config = digits.get_config()
  config.update(
    clients=32,
    new_clients=8,  # take no part in training
    public_size=200,  # samples held out from all, for methods that need them
    rounds=30,
    eval_every=5,
  )
  # They are those of the comparison.
  for field in ("method", "bits", "seed"):
    del config[field]
  return config


# Step sizes from which every method's are chosen, of clients' own models and
# of those that travel.
_RATES = {"learning_rate": (0.02, 0.05, 0.1, 0.2)}
_BOTH_RATES = {**_RATES, "shared_learning_rate": (0.02, 0.05, 0.1, 0.2)}


def get_config():
  config = ml_collections.ConfigDict()
  config.base = _base()
  # The others are compared with the first.
  config.methods = ("local", "fedavg", "quped", "qupel")
  # Each is a precision of all clients, or of clients in turn: "1,2,3,4,32".
  config.bits = ("32", "1")
  config.seeds = (0, 1, 2)
  # {method, or method_bits: settings}, such as
  # {"fedavg": {"learning_rate": 0.1, "fedavg": {"weighting": "uniform"}}}.
  # "bits" are those of a method that takes not all; "method" makes a variant
  # of one under a name of its own.
  config.overrides = ml_collections.ConfigDict({})
  config.tune = ml_collections.ConfigDict(
    {
      "trials": 4,  # of every method and precision
      "seeds": (0,),
      "rounds": 20,
      "validation_fraction": 0.25,  # of each client's training samples
      # {method: {setting: values}}, from which each method's trials are drawn.
      "spaces": {
        "local": _RATES,
        "fedavg": {
          **_RATES,
          "fedavg": {"server_learning_rate": (0.5, 1.0, 1.5)},
        },
        "quped": {**_BOTH_RATES, "quped": {"lambda_p": (0.25, 0.5, 0.75)}},
        "qupel": {**_BOTH_RATES, "qupel": {"lambda_p": (0.1, 0.5, 2.0)}},
      },
    }
  )
  return config
