"""Characters of this package's own files, a few files for each client."""

from experiments import common


def get_config():
  return common.get_preset("text")
