"""All methods under attack on digits; `experiments.compare` runs it.

Each method as it is (`fedavg`), with 2 of 20 clients that flip signs
(`fedavg_attacked`), and, if it can take one, with a trimmed mean against them
(`fedavg_trimmed`); FedAvg and QuPeD with every other average too
(`fedavg_krum`).
"""

from experiments import common


def get_config():
  return common.get_preset("compare_attacks")
