"""One quantized model on a whole dataset: configs/centralized.py:NAME."""

from experiments import common


def get_config(dataset="digits"):
  return common.get_variant("centralized", "dataset", dataset)
