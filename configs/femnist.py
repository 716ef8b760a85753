"""FEMNIST by writer, 3 writers per client, CNN1."""

from experiments import common


def get_config():
  return common.get_preset("femnist")
