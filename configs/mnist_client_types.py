"""MNIST over 50 clients of two networks and three precisions, 10 at a time."""

from experiments import common


def get_config():
  return common.get_preset("mnist_client_types")
