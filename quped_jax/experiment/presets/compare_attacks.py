"""All methods under attack on digits: the preset of a comparison.

Each method as it is (`fedavg`), with 2 of 20 clients that flip signs
(`fedavg_attacked`), and, if it can take one, with a trimmed mean against them
(`fedavg_trimmed`); FedAvg and QuPeD with every other average too
(`fedavg_krum`).
"""

from typing import Any

from quped_jax.experiment.presets.bases import base_of
from quped_jax.experiment.presets.digits import DIGITS

# Those that can take a trimmed mean.
_ROBUST = (
  "fedavg",
  "fedavg_ft",
  "fedprox",
  "moon",
  "fedmlb",
  "per_fedavg",
  "pfedme",
  "ditto",
  "apfl",
  "fedrep",
  "fml",
  "fedkd",
  "fedgkd",
  "fedgkd_vote",
  "fedntd",
  "fedcad",
  "fedssd",
  "quped",
  "qupel",
  "scaffold",
  "feddyn",
  "feddf",
  "fedmd",
  "ds_fl",
  "fedala",
  "fedbabu",
  "feddbe",
  "fedper",
  "fedprox_ft",
  "fedrod",
  "lg_fedavg",
  "scaffold_ft",
  "cfd",
)
# Besides local, which sends nothing, and fedbn, which needs a network with
# normalisation.
_OTHERS = (
  "fd",
  "cronus",
  "fedbe",
  "fedaux",
  "fedgkt",
  "fedgen",
  "fedftg",
  "fedzkt",
  "fedproto",
  "fedtgp",
)

# Those that show every average.
_SHOWN = ("fedavg", "quped")
_AVERAGES = ("median", "krum", "multi_krum", "bulyan", "geometric_median")

_ATTACK = {"byzantine_clients": 2, "attack": "sign_flip", "attack_scale": 10.0}

# What all runs share.
_BASE = base_of(
  DIGITS,
  clients=20,
  classes_per_client=5,
  hidden=(32, 32),
  public_size=200,  # samples held out from all, for methods that need them
  rounds=15,
  steps=20,
  eval_every=15,
  devices=1,
  strategy="vmap",
)


def _variants(name: str) -> dict[str, dict[str, Any]]:
  """The overrides of the rows in which a method is attacked."""
  attacked = {"method": name, **_ATTACK}
  found = {f"{name}_attacked": attacked}
  if name in _ROBUST:
    trimmed = {**attacked, "aggregation": "trimmed_mean", "trim": 0.1}
    found[f"{name}_trimmed"] = trimmed
  for average in _AVERAGES if name in _SHOWN else ():
    found[f"{name}_{average}"] = {
      **attacked,
      "aggregation": average,
      "assumed_byzantine": 2,
    }
  return found


_ROWS = {name: _variants(name) for name in (*_ROBUST, *_OTHERS)}

COMPARE_ATTACKS: dict[str, Any] = {
  "base": _BASE,
  "methods": tuple(x for name, own in _ROWS.items() for x in (name, *own)),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": {x: y for own in _ROWS.values() for x, y in own.items()},
}
