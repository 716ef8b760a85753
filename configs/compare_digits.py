"""All methods side by side on digits; `experiments.compare` runs it."""

from experiments import common


def get_config():
  return common.get_preset("compare_digits")
