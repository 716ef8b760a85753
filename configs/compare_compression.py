"""What compressed messages cost, on digits; `experiments.compare` runs it.

FedAvg and QuPeD as they are (`fedavg`), with integers of 4 bits
(`fedavg_qsgd`), with a tenth of the numbers (`fedavg_topk`) and with a bit for
each (`fedavg_sign`); the last two with error feedback.
"""

from typing import Any

import ml_collections

from configs import digits

_METHODS = ("fedavg", "quped")

_COMPRESSIONS = {
  "qsgd": {"compression": "qsgd", "compression_bits": 4},
  "topk": {"compression": "topk", "compression_share": 0.1},
  "sign": {"compression": "sign"},
}


def _base():
  """What all runs share."""
  config = digits.get_config()
  config.update(
    clients=20,
    classes_per_client=5,
    rounds=30,
    eval_every=5,
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
  for name in _METHODS:
    methods.append(name)
    for compression, settings in _COMPRESSIONS.items():
      overrides[f"{name}_{compression}"] = {"method": name, **settings}
      methods.append(f"{name}_{compression}")
  config.methods = tuple(methods)
  config.bits = "32"
  config.seeds = (0, 1, 2)
  config.overrides = ml_collections.ConfigDict(overrides)
  return config
