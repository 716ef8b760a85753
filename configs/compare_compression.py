"""What compressed messages cost, on digits; `experiments.compare` runs it.

FedAvg and QuPeD as they are (`fedavg`), with integers of 4 bits
(`fedavg_qsgd`), with a tenth of the numbers (`fedavg_topk`) and with a bit for
each (`fedavg_sign`); the last two with error feedback.
"""

from experiments import common


def get_config():
  return common.get_preset("compare_compression")
