"""All methods side by side on images: presets of comparisons, by dataset.

Bring an accelerator. Step sizes and options are those of the dataset's own
preset and of the methods' papers: `--tune` chooses better ones.
"""

from collections.abc import Mapping
from typing import Any

from quped_jax.experiment.presets.bases import base_of
from quped_jax.experiment.presets.compare_digits import COMPARE_DIGITS
from quped_jax.experiment.presets.images import (
  CIFAR10,
  FASHION_MNIST,
  FEMNIST,
  MNIST,
)

# For deeper networks than that of digits.
_RATES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3)


def _comparison(run: Mapping[str, Any], held_out: int) -> dict[str, Any]:
  """The comparison on a dataset.

  Args:
    run: the dataset's own preset.
    held_out: how many of its clients take no part in training.
  """
  base = base_of(
    run,
    clients=run["clients"] - held_out,
    held_out_clients=held_out,
    public_size=1000,
  )
  methods = COMPARE_DIGITS["methods"]
  return {
    **COMPARE_DIGITS,
    "base": base,
    "bits": "32; 2; 1",
    # Those of single precisions were chosen on digits, for other networks.
    "overrides": {
      name: own
      for name, own in COMPARE_DIGITS["overrides"].items()
      if name in methods
    },
    "tune": {**COMPARE_DIGITS["tune"], "spaces": _spaces(base["steps"])},
  }


def _spaces(steps: int) -> dict[str, Any]:
  """Those of digits with smaller step sizes; the options stay the same."""
  spaces = {
    name: {
      field: _RATES if field.endswith("learning_rate") else values
      for field, values in own.items()
    }
    for name, own in COMPARE_DIGITS["tune"]["spaces"].items()
  }
  spaces["fedrep"]["fedrep"] = {"head_steps": (steps // 4, steps // 2)}
  return spaces


COMPARE_IMAGES = {
  "mnist": _comparison(MNIST, 10),
  "fashion_mnist": _comparison(FASHION_MNIST, 10),
  "femnist": _comparison(FEMNIST, 5),
  "cifar10": _comparison(CIFAR10, 10),
}
