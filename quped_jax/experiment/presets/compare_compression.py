"""What compressed messages cost, on digits: the preset of a comparison.

FedAvg and QuPeD as they are (`fedavg`), with integers of 4 bits
(`fedavg_qsgd`), with a tenth of the numbers (`fedavg_topk`) and with a bit for
each (`fedavg_sign`); the last two with error feedback.
"""

from typing import Any

from quped_jax.experiment.presets.bases import base_of
from quped_jax.experiment.presets.digits import DIGITS

_METHODS = ("fedavg", "quped")

_COMPRESSIONS = {
  "qsgd": {"compression": "qsgd", "compression_bits": 4},
  "topk": {"compression": "topk", "compression_share": 0.1},
  "sign": {"compression": "sign"},
}

# What all runs share.
_BASE = base_of(
  DIGITS,
  clients=20,
  classes_per_client=5,
  rounds=30,
  eval_every=5,
  devices=1,
  strategy="vmap",
)

COMPARE_COMPRESSION: dict[str, Any] = {
  "base": _BASE,
  "methods": tuple(
    row
    for name in _METHODS
    for row in (name, *(f"{name}_{x}" for x in _COMPRESSIONS))
  ),
  "bits": "32",
  "seeds": (0, 1, 2),
  "overrides": {
    f"{name}_{compression}": {"method": name, **settings}
    for name in _METHODS
    for compression, settings in _COMPRESSIONS.items()
  },
}
