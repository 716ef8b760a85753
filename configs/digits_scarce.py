"""Digits with little data per client, where one shared model does better."""

from experiments import common


def get_config():
  return common.get_preset("digits_scarce")
