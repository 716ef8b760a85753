"""Handwritten digits over 40 clients: the demonstration."""

from experiments import common


def get_config():
  return common.get_preset("digits")
