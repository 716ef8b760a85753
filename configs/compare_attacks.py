"""All methods under attack on digits; `experiments.compare` runs it.

Each method as it is (`fedavg`), with 2 of 20 clients that flip signs
(`fedavg_attacked`), and, if it can take one, with a trimmed mean against them
(`fedavg_trimmed`); FedAvg and QuPeD with every other average too
(`fedavg_krum`).
"""

from typing import Any

import ml_collections

from configs import digits

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


def _base():
  """What all runs share."""
  config = digits.get_config()
  config.update(
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
  # Set by the comparison, not here.
  for field in ("method", "bits", "seed"):
    del config[field]
  return config


def get_config():
  config: Any = ml_collections.ConfigDict()
  config.base = _base()
  methods, overrides = [], {}
  for name in (*_ROBUST, *_OTHERS):
    attacked = {"method": name, **_ATTACK}
    overrides[f"{name}_attacked"] = attacked
    methods += [name, f"{name}_attacked"]
    if name in _ROBUST:
      trimmed = {**attacked, "aggregation": "trimmed_mean", "trim": 0.1}
      overrides[f"{name}_trimmed"] = trimmed
      methods.append(f"{name}_trimmed")
    for average in _AVERAGES if name in _SHOWN else ():
      overrides[f"{name}_{average}"] = {
        **attacked,
        "aggregation": average,
        "assumed_byzantine": 2,
      }
      methods.append(f"{name}_{average}")
  config.methods = tuple(methods)
  config.bits = "32"
  config.seeds = (0, 1, 2)
  config.overrides = ml_collections.ConfigDict(overrides)
  return config
