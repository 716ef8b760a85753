"""Estimators side by side: presets of comparisons, by what is trained.

Each row is an estimator, see docs/quantizers.md, at 2 bits or 1; "full" is the
same network in full precision. A step of "soft" takes three gradients, one of
"hard" two, of all others one: the table has both accuracy and gradients, and
the setting budget="gradients" gives all the same.
"""

from collections.abc import Mapping
from typing import Any

from quped_jax.experiment.presets.bases import base_of
from quped_jax.experiment.presets.centralized import CENTRALIZED
from quped_jax.experiment.presets.digits import DIGITS

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


def _comparison(base: Mapping[str, Any], method: str) -> dict[str, Any]:
  """The comparison of all estimators in one method."""
  variants = {
    name: {"method": method, "estimator": name} for name in _ESTIMATORS
  }
  return {
    "base": base,
    "methods": (*_ESTIMATORS, "full"),
    "bits": "2; 1",
    "seeds": (0, 1, 2),
    "overrides": {**variants, "full": {"method": method, "bits": "32"}},
    "tune": {
      "trials": 6,
      "halving": 0,
      "seeds": (0,),
      "rounds": base["rounds"],
      "validation_fraction": 0.2,
      "spaces": _SPACES,
    },
  }


def _of_one_model(name: str) -> dict[str, Any]:
  # All train in the same way to the end.
  base = base_of(CENTRALIZED[name], finetune_at=0)
  return _comparison(base, "local")


COMPARE_QUANTIZERS = {
  "digits": _of_one_model("digits"),
  "quped": _comparison(base_of(DIGITS), "quped"),
  "mnist": _of_one_model("mnist"),
}
