"""CIFAR-10 over 50 clients of 4 classes each, CNN1 for colour images."""

from experiments import common


def get_config():
  return common.get_preset("cifar10")
