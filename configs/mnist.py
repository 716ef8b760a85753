"""MNIST over 50 clients of 3 classes each, CNN1."""

from experiments import common


def get_config():
  return common.get_preset("mnist")
