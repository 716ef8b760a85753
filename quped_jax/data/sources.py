"""Datasets by name: `load_dataset`, and `register_dataset` for your own."""

from __future__ import annotations

import functools
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from quped_jax import checks, paths, reading
from quped_jax.data import leaf, text, tfds_source
from quped_jax.data.cache import (
  Arrays,
  cached,
  default_cache_dir,
  fingerprint,
)
from quped_jax.data.dataset import Dataset

# Mean and standard deviation of the training images, in units of 0..255.
_MNIST_SCALE = (33.318421, 78.567490)
_FASHION_MNIST_SCALE = (72.940352, 90.021183)
_CIFAR10_SCALE = (
  np.array([125.306918, 122.950394, 113.865383], np.float32),
  np.array([62.993219, 62.088708, 66.704900], np.float32),
)
# Of the 105 writers of femnist_leaf_subset, with ink as 255.
_FEMNIST_SCALE = (9.904043, 42.218153)

# `(name of a file, make, check) -> arrays`, kept in that file of the cache.
_Keep = Callable[[str, Callable[[], Arrays], Callable[[Arrays], Any]], Arrays]
# Only loaders that read the folder ask for it: there may be none.
_Loader = Callable[[Callable[[], pathlib.Path], _Keep], Dataset]


def dataset_names() -> list[str]:
  """Names that `load_dataset` knows, sorted."""
  return sorted(_LOADERS)


def load_dataset(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  *,
  mapped: bool = False,
) -> Dataset:
  """Loads a dataset; downloads and prepares it if needed.

  "digits" comes with scikit-learn. "own_source" is the text of this package:
  each sample is 32 characters and the next one as label; each file is a group.
  "mnist", "fashion_mnist" and "cifar10" are read from, or written to,
  `<data_dir>/<name>/<version>/` in the format of tensorflow-datasets. "femnist"
  holds the writers that have training images, "femnist_other_writers" those
  that have test images only; both come from
  `<data_dir>/femnist_leaf_subset/<version>/` or else from LEAF's files
  `<data_dir>/femnist/{train,test}/*.json`, and are not downloaded. Their
  images are inverted: ink is 255 and paper 0, as in MNIST.

  Args:
    name: "digits", "own_source", "mnist", "fashion_mnist", "cifar10",
      "femnist", "femnist_other_writers", or a name given to `register_dataset`.
    data_dir: Folder of the datasets. None: `$QUPED_DATA_DIR`, or
      `~/tensorflow_datasets`.
    cache_dir: Where decoded images are kept, so that the next start is quick.
      None: `$QUPED_CACHE_DIR`, or `quped_jax` in the user's cache folder.
    mapped: Map the cached files into memory instead of reading them, so that
      only samples that are used are read; damage is then not noticed. For
      processes that each need only a part of the samples.

  Returns:
    The dataset.

  Raises:
    ValueError: If there is no such name.
    FileNotFoundError: If the data can be neither found nor downloaded.
    ImportError: If an optional dependency is missing.

  Examples:
    >>> data = qj.load_dataset("digits")
    >>> data.inputs.shape, data.num_classes
    ((1797, 8, 8, 1), 10)
  """
  checks.choice("dataset", name, sorted(_LOADERS))
  data = None if data_dir is None else paths.given("data_dir", data_dir)
  cache = None if cache_dir is None else paths.given("cache_dir", cache_dir)

  def folder() -> pathlib.Path:
    return data or paths.default("QUPED_DATA_DIR", "~/tensorflow_datasets")

  def keep(file, make, check) -> Arrays:
    try:
      path = (cache or default_cache_dir()) / file
    except ValueError as error:
      warnings.warn(f"decoded data is not kept: {error}", stacklevel=2)
      return make()
    return cached(path, make, check, mapped=mapped)

  dataset = _LOADERS[name](folder, keep)
  checks.instance(f"dataset={name!r}", dataset, Dataset, "from_arrays")
  return dataset


def register_dataset(
  name: str, loader: Callable[[pathlib.Path], Dataset]
) -> None:
  """Makes a dataset known to `load_dataset` by name.

  Args:
    name: A name that is not yet taken.
    loader: Called with the data folder, returns the dataset.

  Raises:
    ValueError: If the name is taken.
  """
  name = checks.text("name", name)
  if not callable(loader):
    raise ValueError(
      f"loader={checks.shown(loader)}: must be a function of the data folder "
      "that returns a Dataset"
    )
  if name in _LOADERS:
    raise ValueError(
      f"dataset={name!r}: must be none of {sorted(_LOADERS)}, which are taken"
    )
  _LOADERS[name] = lambda folder, keep: loader(folder())


def _load_digits(folder, keep):
  del folder, keep
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  return Dataset(
    name="digits",
    inputs=(images / 16).astype(np.float32).reshape(-1, 8, 8, 1),
    labels=np.asarray(labels, np.int32),
    num_classes=10,
  )


def _load_own_source(folder, keep):
  del folder, keep
  return text.next_characters(text.own_source(), name="own_source")


def _images_loader(name, num_classes, shape, scale) -> _Loader:
  """Returns the loader of an image dataset of tensorflow-datasets."""
  mean, std = scale

  def make_dataset(arrays):
    _check_images(arrays, {"inputs", "labels", "is_test"}, shape)
    return Dataset(name, num_classes=num_classes, mean=mean, std=std, **arrays)

  def load(folder, keep):
    data_dir = folder()
    prepared = tfds_source.find_prepared(
      name, data_dir
    ) or tfds_source.download_and_prepare(name, data_dir)
    key = f"{name}-{prepared.name}-{fingerprint(prepared.iterdir())}.npz"

    def decode():
      with reading.naming(str(prepared), f"the prepared dataset {name!r}"):
        arrays = _decode_images(prepared, num_classes)
        make_dataset(arrays)
        return arrays

    return make_dataset(keep(key, decode, make_dataset))

  return load


def _check_images(
  arrays: Arrays, names: set[str], shape: tuple[int, ...]
) -> None:
  """Raises a ValueError unless arrays are images, and columns of these names.

  `Dataset` checks the rest.
  """
  if arrays.keys() != names:
    raise ValueError(
      f"its arrays are {', '.join(arrays)}, and not {', '.join(sorted(names))}"
    )
  inputs = arrays["inputs"]
  if inputs.dtype != np.uint8 or inputs.shape[1:] != shape:
    raise ValueError(
      f"its images are {inputs.dtype} {list(inputs.shape)}, and not uint8 of "
      f"{list(shape)}"
    )


def _decode_images(folder, num_classes):
  splits = [
    tfds_source.read_split(folder, split, ("image", "label"))
    for split in ("train", "test")
  ]
  images, labels = zip(*splits, strict=True)
  return {
    "inputs": np.concatenate(images),
    "labels": _small(np.concatenate(labels), num_classes),
    "is_test": np.repeat([False, True], [len(part) for part in labels]),
  }


def _small(labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Labels as int32, which must have room for them."""
  if labels.dtype.kind not in "iu":
    raise ValueError(f"its labels are {labels.dtype}, and not integers")
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    raise ValueError(
      f"its label {labels[wrong][0]} is not from 0 to {num_classes - 1}"
    )
  return labels.astype(np.int32)


def _femnist_loader(name, other_writers) -> _Loader:
  """Returns the loader of the writers with, or of those without, training data.

  Args:
    name: Name of the dataset.
    other_writers: Load the writers without training data.
  """

  mean, std = _FEMNIST_SCALE
  classes, shape = leaf.NUM_CLASSES, (28, 28, 1)

  def make_dataset(arrays):
    names = {"inputs", "labels", "is_test", "groups", "group_names"}
    _check_images(arrays, names, shape)
    writers = arrays["group_names"]
    if writers.dtype.kind != "U" or writers.ndim != 1:
      raise ValueError(
        f"its writers are {writers.dtype} {list(writers.shape)}, and not a "
        "column of names"
      )
    # All images of other writers are in the test split: split each client's
    # instead.
    columns = names - {"group_names", *(["is_test"] if other_writers else [])}
    return Dataset(
      name,
      num_classes=classes,
      mean=mean,
      std=std,
      group_names=tuple(writers.tolist()),
      **{column: arrays[column] for column in columns},
    )

  def load(folder, keep):
    data_dir = folder()
    files, read = _find_femnist(name, data_dir)

    def decode():
      content = read()
      with reading.naming(str(files[0].parent), f"the files of {name!r}"):
        arrays = _select_writers(*content, other_writers)
        if len(arrays["labels"]):
          make_dataset(arrays)
          return arrays
      raise ValueError(
        f"dataset={name!r}: must have writers, but each one in {data_dir} "
        f"has {'training' if other_writers else 'test'} images"
      )

    key = f"{name}-named-{fingerprint(files)}.npz"
    return make_dataset(keep(key, decode, make_dataset))

  return load


def _find_femnist(name, data_dir):
  """Returns the files of FEMNIST and a function that reads all of them.

  That function returns images `[samples, 28, 28, 1]`, labels, writers (strings)
  and is_test, `[samples]` each.
  """
  folder = tfds_source.find_prepared("femnist_leaf_subset", data_dir)
  leaf_files = leaf.find_files(data_dir / "femnist")
  if folder is not None:
    fields = ("image", "label", "writer_id")
    files = list(folder.iterdir())
    parts = [
      functools.partial(tfds_source.read_split, folder, split, fields)
      for split in ("train", "test", "test_other_writers")
    ]
  elif leaf_files:
    files = sum(leaf_files.values(), [])
    parts = [
      functools.partial(leaf.read_split, split) for split in leaf_files.values()
    ]
  else:
    raise FileNotFoundError(
      f"dataset={name!r}: neither {data_dir / 'femnist_leaf_subset'} nor "
      f"{data_dir / 'femnist'}/{{train,test}}/*.json is there. Name the folder "
      "that holds one of them (data_dir= or the environment variable "
      "QUPED_DATA_DIR), or make the JSON files with LEAF "
      "(https://github.com/TalwalkarLab/leaf), in data/femnist:\n"
      "  ./preprocess.sh -s niid --sf 0.05 -k 0 -t sample\n"
      f"and copy its data/train and data/test into {data_dir / 'femnist'}"
    )

  def read():
    contents = [part() for part in parts]
    sizes = [len(labels) for _, labels, _ in contents]
    images, labels, writers = map(np.concatenate, zip(*contents, strict=True))
    # The first part is the training split.
    is_test = np.repeat(np.arange(len(sizes)) > 0, sizes)
    return images, labels, writers, is_test

  return files, read


def _select_writers(images, labels, writers, is_test, other_writers):
  trained = np.isin(writers, writers[~is_test])
  keep = trained != other_writers
  names, groups = np.unique(writers[keep], return_inverse=True)
  return {
    "inputs": 255 - images[keep],
    "labels": _small(labels[keep], leaf.NUM_CLASSES),
    "is_test": is_test[keep],
    "groups": groups.astype(np.int32),
    "group_names": names.astype(
      np.str_
    ),  # Those of tensorflow-datasets are bytes.
  }


_LOADERS: dict[str, _Loader] = {
  "digits": _load_digits,
  "own_source": _load_own_source,
  "mnist": _images_loader("mnist", 10, (28, 28, 1), _MNIST_SCALE),
  "fashion_mnist": _images_loader(
    "fashion_mnist", 10, (28, 28, 1), _FASHION_MNIST_SCALE
  ),
  "cifar10": _images_loader("cifar10", 10, (32, 32, 3), _CIFAR10_SCALE),
  "femnist": _femnist_loader("femnist", other_writers=False),
  "femnist_other_writers": _femnist_loader(
    "femnist_other_writers", other_writers=True
  ),
}
