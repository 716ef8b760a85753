"""Estimators side by side: configs/compare_quantizers.py:NAME.

digits   one model on all of digits
quped    QuPeD's clients, on digits
mnist    one CNN1 on all of MNIST

python -m experiments.compare --config=configs/compare_quantizers.py:digits \
  --workdir=results/quantizers

Each row is an estimator, see docs/quantizers.md, at 2 bits or 1; "full" is the
same network in full precision. A step of "soft" takes three gradients, one of
"hard" two, of all others one: the table has both accuracy and gradients, and
--config.base.budget=gradients gives all the same.
"""

from typing import Any

import ml_collections

from configs import centralized, digits

# The others are compared with the first.
_ESTIMATORS = (
  "soft",
  "hard",
  "ste",
  "lsq",
  "binaryrelax",
  "parq",
  "proxquant",
)

_RATES = {"learning_rate": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)}
_STRENGTHS = {"strength": (1e-6, 1e-5, 1e-4, 1e-3)}

# What `--tune` draws from: step sizes, and what each estimator's paper tunes.
_SPACES = {
  "soft": {**_RATES, **_STRENGTHS},
  "hard": {**_RATES, **_STRENGTHS},
  "ste": {**_RATES, "initial_levels": ("uniform", "lsbq")},
  "lsq": {**_RATES, "centers_learning_rate": (1e-4, 1e-3, 1e-2)},
  "binaryrelax": {**_RATES, "relax_growth": (10.0, 350.0, 1e4)},
  "parq": {**_RATES, "parq_steepness": (1.0, 10.0, 100.0)},
  "proxquant": {**_RATES, **_STRENGTHS},
  "full": _RATES,
}


def _base(name):
  """What all runs share, and the method."""
  if name == "quped":
    return digits.get_config(), "quped"
  config = centralized.get_config(name)
  config.finetune_at = 0  # All train in the same way to the end.
  return config, "local"


def get_config(name="digits"):
  names = ("digits", "quped", "mnist")
  if name not in names:
    raise ValueError(f"name={name!r}: must be one of {', '.join(names)}")
  base, method = _base(name)
  # Set by the comparison, not here.
  for field in ("method", "bits", "seed"):
    del base[field]
  variants: Any = {
    name: {"method": method, "estimator": name} for name in _ESTIMATORS
  }
  config: Any = ml_collections.ConfigDict()
  config.base = base
  config.methods = (*_ESTIMATORS, "full")
  config.bits = "2; 1"
  config.seeds = (0, 1, 2)
  config.overrides = ml_collections.ConfigDict(
    {**variants, "full": {"method": method, "bits": "32"}}
  )
  config.tune = ml_collections.ConfigDict(
    {
      "trials": 6,
      "halving": 0,
      "seeds": (0,),
      "rounds": base.rounds,
      "validation_fraction": 0.2,
      "spaces": _SPACES,
    }
  )
  return config
