"""All methods side by side on images: configs/compare_images.py:NAME.

NAME is mnist, fashion_mnist, femnist or cifar10. Bring an accelerator. Step
sizes and options are those of the dataset's own config and of the methods'
papers: `--tune` chooses better ones.
"""

import importlib
from typing import Any

import ml_collections

from configs import compare_digits

_DATASETS = ("mnist", "fashion_mnist", "femnist", "cifar10")


def get_config(dataset="mnist"):
  if dataset not in _DATASETS:
    raise ValueError(
      f"dataset={dataset!r}: must be one of {', '.join(_DATASETS)}"
    )
  config: Any = compare_digits.get_config()
  base = importlib.import_module(f"configs.{dataset}").get_config()
  held_out = 5 if dataset == "femnist" else 10  # of 35, and of 50
  base.update(
    clients=base.clients - held_out, held_out_clients=held_out, public_size=1000
  )
  for field in ("method", "bits", "seed"):
    del base[field]
  config.base = base
  config.bits = "32; 2; 1"
  # Those of single precisions were chosen on digits, for other networks.
  config.overrides = ml_collections.ConfigDict(
    {
      name: own
      for name, own in config.overrides.to_dict().items()
      if name in config.methods
    }
  )
  spaces = _slower(config.tune.spaces)
  steps = base.steps
  spaces["fedrep"]["fedrep"] = {"head_steps": (steps // 4, steps // 2)}
  config.tune.spaces = ml_collections.ConfigDict(spaces)
  return config


def _slower(spaces):
  """Smaller step sizes, for deeper networks; the options stay the same."""
  rates = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3)
  return {
    name: {
      field: rates if field.endswith("learning_rate") else values
      for field, values in own.items()
    }
    for name, own in spaces.to_dict().items()
  }
