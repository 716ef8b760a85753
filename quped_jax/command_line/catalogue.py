"""What there is by name, in a line each; read without importing JAX."""

import pathlib
import re
from collections.abc import Callable

import quped_jax
from quped_jax.experiment import presets

# A test holds these two to what is registered.
_DATASETS = {
  "cifar10": "colour images, 32 x 32, 10 classes; 60,000 samples",
  "digits": "handwritten digits, 8 x 8, 10 classes; 1,797 samples, of "
  "scikit-learn",
  "fashion_mnist": "images of clothes, 28 x 28, 10 classes; 70,000 samples",
  "femnist": "handwritten characters by writer, 28 x 28, 62 classes",
  "femnist_other_writers": "the writers that femnist leaves out",
  "mnist": "handwritten digits, 28 x 28, 10 classes; 70,000 samples",
  "own_source": "32 characters of this package's files; the label is the next",
  "synthetic": "Gaussian classes, for any number of clients",
}
_MODELS = {
  "cnn1": "two convolutions and dense layers, of the widths in `hidden`",
  "cnn2": "four convolutions and dense layers, of the widths in `hidden`",
  "mlp": "dense layers, of the widths in `hidden`",
  "resnet20": "residual network for CIFAR-10, of 20 layers",
  "resnet32": "residual network for CIFAR-10, of 32 layers",
  "resnet8": "residual network for CIFAR-10, of 8 layers",
  "transformer": "two blocks of attention, for text",
}


def datasets() -> dict[str, str]:
  """The datasets, with a line on each."""
  return _DATASETS


def models() -> dict[str, str]:
  """The networks, with a line on each."""
  return _MODELS


def all_presets() -> dict[str, str]:
  """The presets, with a line on each."""
  return {name: preset.line for name, preset in presets.PRESETS.items()}


def methods() -> dict[str, str]:
  """The built-in methods, with the first line of their files' docstrings."""
  folder = pathlib.Path(quped_jax.__file__).parent / "methods"
  texts = {path.stem: path.read_text() for path in sorted(folder.glob("*.py"))}
  return {
    name: text.partition("\n")[0].removeprefix("r").strip('"').rstrip(".")
    for name, text in texts.items()
    # Other files there are what methods share.
    if re.search(rf"^def make_{name}\(", text, re.MULTILINE)
  }


# By what they are.
KINDS: dict[str, Callable[[], dict[str, str]]] = {
  "methods": methods,
  "models": models,
  "datasets": datasets,
  "presets": all_presets,
}
