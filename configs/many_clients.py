"""100,000 clients on synthetic data, 1,000 at a time, states in host memory."""

from experiments import common


def get_config():
  return common.get_preset("many_clients")
