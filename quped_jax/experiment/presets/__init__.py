"""Settings of experiments by name: plain dicts, of runs and of comparisons.

The commands take them by `--preset=NAME`, and files in `configs/` wrap them. To
run one from Python: `qj.Settings.from_dict(presets.get("digits"))`.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from quped_jax import checks
from quped_jax.experiment.presets.centralized import (
  CENTRALIZED,
  CIFAR10_CENTRALIZED,
)
from quped_jax.experiment.presets.compare_attacks import COMPARE_ATTACKS
from quped_jax.experiment.presets.compare_compression import (
  COMPARE_COMPRESSION,
)
from quped_jax.experiment.presets.compare_digits import COMPARE_DIGITS
from quped_jax.experiment.presets.compare_images import COMPARE_IMAGES
from quped_jax.experiment.presets.compare_quantizers import COMPARE_QUANTIZERS
from quped_jax.experiment.presets.digits import DIGITS, MANY_CLIENTS, SCARCE
from quped_jax.experiment.presets.images import (
  CIFAR10,
  FASHION_MNIST,
  FEMNIST,
  MNIST,
  MNIST_CLIENT_TYPES,
)
from quped_jax.experiment.presets.text import TEXT


class Preset(NamedTuple):
  """Settings under a name.

  Attributes:
    line: what it is, in a line.
    values: of a run: {setting: value}, and {option: value} under a method's
      name; of a comparison: what `quped_jax.experiment.comparison.plan` says.
  """

  line: str
  values: Mapping[str, Any]


# By name; a name may have a variant, after a colon.
PRESETS = {
  "digits": Preset("handwritten digits over 40 clients of 3 classes", DIGITS),
  "digits_scarce": Preset("digits with little data per client", SCARCE),
  "mnist": Preset("MNIST over 50 clients of 3 classes, CNN1", MNIST),
  "mnist_client_types": Preset(
    "MNIST, two networks and three precisions, 10 of 50 clients at a time",
    MNIST_CLIENT_TYPES,
  ),
  "fashion_mnist": Preset(
    "Fashion-MNIST over 50 clients of 3 classes, CNN1", FASHION_MNIST
  ),
  "femnist": Preset("FEMNIST by writer, 3 writers per client, CNN1", FEMNIST),
  "cifar10": Preset("CIFAR-10 over 50 clients of 4 classes, CNN1", CIFAR10),
  "text": Preset("next character of this package's own files", TEXT),
  "many_clients": Preset(
    "100,000 clients of synthetic data, 1,000 at a time", MANY_CLIENTS
  ),
  **{
    f"centralized:{name}": Preset(f"one 2-bit model on all of {name}", values)
    for name, values in CENTRALIZED.items()
  },
  **{
    f"cifar10_centralized:{name}": Preset(
      f"the 1-bit ResNet-20 of QuPeD's released code, {words}",
      CIFAR10_CENTRALIZED[name],
    )
    for name, words in (("sgd", "SGD with momentum"), ("adam", "Adam"))
  },
  "compare_digits": Preset("all methods on digits, tuned", COMPARE_DIGITS),
  "compare_attacks": Preset(
    "all methods on digits with clients that send false messages",
    COMPARE_ATTACKS,
  ),
  "compare_compression": Preset(
    "FedAvg and QuPeD on digits with compressed messages", COMPARE_COMPRESSION
  ),
  **{
    f"compare_images:{name}": Preset(f"all methods on {name}, CNN1", values)
    for name, values in COMPARE_IMAGES.items()
  },
  **{
    f"compare_quantizers:{name}": Preset(
      f"all estimators, {words}", COMPARE_QUANTIZERS[name]
    )
    for name, words in (
      ("digits", "one model on all of digits"),
      ("quped", "QuPeD's clients on digits"),
      ("mnist", "one CNN1 on all of MNIST"),
    )
  },
}


def get(name: str) -> dict[str, Any]:
  """The values of a preset, which the caller may change.

  Args:
    name: a key of `PRESETS`.

  Raises:
    ValueError: there is no such preset.
  """
  checks.choice("preset", name, tuple(PRESETS))
  return copy.deepcopy(dict(PRESETS[name].values))


def compares(values: Mapping[str, Any]) -> bool:
  """Whether values are those of a comparison, and not of one run."""
  return "base" in values


def variants(name: str) -> tuple[str, ...]:
  """The variants of a preset, which come after a colon in its name."""
  return tuple(x.partition(":")[2] for x in PRESETS if x.startswith(f"{name}:"))
