"""Image datasets in the format of tensorflow-datasets, without TensorFlow.

Prepared data (array_record files) is read with `as_data_source`. Missing data
is downloaded and prepared by the dataset's own builder, except that the raw
files are unpacked and parsed here, because the builder's code for that needs
TensorFlow.
"""

from __future__ import annotations

import gzip
import math
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from quped_jax import kinds, reading

_INFO = kinds.record({"fileFormat": kinds.text}, missing={"fileFormat"})

# Split name to images [samples, height, width, channels] and labels [samples].
RawSplits = dict[str, tuple[np.ndarray, np.ndarray]]
_CONNECT_SECONDS = 10.0
_MOST_RAW = 2**26  # Bytes of a raw file, unpacked; the largest has 47 million.
_EXTRA = "pip install 'quped_jax[data]'"


def find_prepared(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the newest prepared version, or None.

  Args:
    name: Name of the dataset, such as "mnist".
    data_dir: Folder that holds `<name>/<version>/`.

  Returns:
    The folder `<data_dir>/<name>/<version>`.

  Raises:
    ValueError: If there is data, but none in array_record format.
  """
  folders = {}
  for info in (data_dir / name).glob("*/dataset_info.json"):
    numbers = info.parent.name.split(".")
    if all(number.isdecimal() for number in numbers):
      folders[tuple(map(int, numbers))] = info.parent
  for version in sorted(folders, reverse=True):
    file = folders[version] / "dataset_info.json"
    with reading.naming(str(file), "the description of a prepared dataset"):
      info = _INFO("", reading.read_json(file))
    if info.get("fileFormat") == "array_record":
      return folders[version]
  if folders:
    raise ValueError(
      f"data_dir={str(data_dir)!r}: {name!r} must be in array_record format; "
      "other formats need TensorFlow. Name another data_dir and it is "
      "prepared there"
    )
  return None


def read_split(
  folder: pathlib.Path, split: str, fields: tuple[str, ...]
) -> tuple[np.ndarray, ...]:
  """Decodes one split of a prepared dataset.

  Args:
    folder: Folder of one version, see `find_prepared`.
    split: Name of the split.
    fields: Names of the features wanted.

  Returns:
    An array `[samples, ...]` for each of `fields`.

  Raises:
    ImportError: If a package of the `[data]` extra is not installed.
    ValueError: If the split is not there, or cannot be decoded.
  """
  tfds: Any = _import_tfds()
  try:
    builder = tfds.builder_from_directory(str(folder))
    source = builder.as_data_source(split=split)
    samples = source.__getitems__(list(range(len(source))))
    return tuple(
      np.stack([sample[field] for sample in samples]) for field in fields
    )
  except ImportError as error:
    raise _missing_extra(error) from error
  except Exception as error:
    # Files that are not as they were written fail in any of its libraries.
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    raise ValueError(
      f"{folder}: must be a dataset that tensorflow-datasets prepared, with "
      f"{', '.join(fields)} in {split!r} ({reason})"
    ) from error


def download_and_prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Downloads a dataset and writes it to `<data_dir>/<name>/<version>/`.

  Raw files found in `<data_dir>/downloads/manual` are not downloaded again.

  Args:
    name: One of `PREPARABLE`.
    data_dir: Folder to write to.

  Returns:
    The folder `<data_dir>/<name>/<version>`.

  Raises:
    FileNotFoundError: If the data can be neither found nor downloaded.
    ImportError: If a package of the `[data]` extra is not installed.
  """
  tfds = _import_tfds()
  try:
    builder: Any = tfds.builder(
      name, data_dir=str(data_dir), file_format="array_record"
    )
    url_of = {info.filename: url for url, info in builder.url_infos.items()}
  except ImportError as error:
    raise _missing_extra(error) from error
  manual_dir = data_dir / "downloads" / "manual"
  # tensorflow-datasets would retry for minutes; this fails within seconds.
  for filename, url in url_of.items():
    if not (manual_dir / filename).exists():
      _check_reachable(name, url, data_dir, sorted(url_of))
      break

  def split_generators(dl_manager):
    splits = PREPARABLE[name](dl_manager.download(url_of))
    return {
      split: _examples(split, *arrays, with_id="id" in builder.info.features)
      for split, arrays in splits.items()
    }

  builder._split_generators = split_generators
  try:
    builder.download_and_prepare(file_format="array_record")
  except tfds.download.DownloadError as error:
    raise _not_found(name, str(error), data_dir, sorted(url_of)) from error
  return pathlib.Path(builder.data_dir)


def _examples(split, images, labels, with_id) -> Iterator:
  """Yields examples under the keys that the dataset's own builder gives."""
  from PIL import Image

  for index, (image, label) in enumerate(zip(images, labels, strict=True)):
    # PIL encodes an image object; TensorFlow would have to encode an array.
    example = {"image": Image.fromarray(image.squeeze()), "label": int(label)}
    if with_id:
      example["id"] = f"{split}_{index:05d}"
    yield index, example


def _read_mnist(paths: Mapping[str, pathlib.Path]) -> RawSplits:
  """Reads the four gzipped idx files of MNIST and its kin."""
  return {
    split: (
      _read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"], (28, 28, 1)),
      _read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"], ()),
    )
    for split, prefix in (("train", "train"), ("test", "t10k"))
  }


def _read_idx(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  """Reads a gzipped idx file of bytes, `[samples, *shape]`."""
  sizes = [n for n in shape if n > 1]
  with reading.naming(str(path), "a gzipped idx file of MNIST's form"):
    try:
      with gzip.open(path) as file:
        content = reading.read_bytes(file, _MOST_RAW)
    except (EOFError, zlib.error) as error:
      raise ValueError(str(error)) from error
    # Magic number, with the number of axes at its end; then the axes.
    begin = 4 * (2 + len(sizes))
    if len(content) < begin:
      raise ValueError(f"it has {len(content)} bytes, which is no header")
    header = np.frombuffer(content[:begin], ">u4").tolist()
    if header[:1] + header[2:] != [0x801 + len(sizes), *sizes]:
      raise ValueError(f"its header is {header}")
    if len(content) != begin + header[1] * math.prod(sizes):
      raise ValueError(f"it has not the {header[1]} samples that it says")
    array = np.frombuffer(content, np.uint8, offset=begin)
    return array.reshape(-1, *shape)


def _read_cifar10(paths: Mapping[str, pathlib.Path]) -> RawSplits:
  """Reads CIFAR-10's archive: records of a label and 3 channels of pixels."""
  path = paths["cifar-10-binary.tar.gz"]
  batches = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
  }
  with reading.naming(str(path), "CIFAR-10's archive of binary files"):
    contents = _members(path, {name for x in batches.values() for name in x})
    splits = {}
    for split, filenames in batches.items():
      content = b"".join(contents[filename] for filename in filenames)
      records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3072)
      images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
      splits[split] = (images, records[:, 0])
  return splits


def _members(path: pathlib.Path, names: set[str]) -> dict[str, bytes]:
  """The files of an archive that have these names, in whichever folder."""
  contents = {}
  try:
    with tarfile.open(path) as archive:
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        file = archive.extractfile(member) if name in names else None
        if file is not None:
          contents[name] = reading.read_bytes(file, _MOST_RAW)
  except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:
    raise ValueError(str(error)) from error
  if missing := sorted(names - contents.keys()):
    raise ValueError(f"{', '.join(missing)} must be in it")
  return contents


# Datasets that can be prepared, each with the reader of its raw files.
PREPARABLE: dict[str, Callable[[Mapping[str, pathlib.Path]], RawSplits]] = {
  "mnist": _read_mnist,
  "fashion_mnist": _read_mnist,
  "cifar10": _read_cifar10,
}


def _check_reachable(name, url, data_dir, filenames):
  import requests  # A dependency of tensorflow-datasets.

  try:
    with requests.get(url, stream=True, timeout=_CONNECT_SECONDS) as response:
      response.raise_for_status()
  except requests.RequestException as error:
    reason = f"{url} cannot be reached ({type(error).__name__})"
    raise _not_found(name, reason, data_dir, filenames) from error


def _not_found(name, reason, data_dir, filenames):
  return FileNotFoundError(
    f"dataset={name!r}: not in {data_dir / name}, and {reason}. Either name "
    "the folder that holds it (data_dir= or the environment variable "
    "QUPED_DATA_DIR), or, with a network, run\n"
    f'  python -c "import quped_jax.data as d; d.load_dataset({name!r})"\n'
    f"or put {', '.join(filenames)} into {data_dir}/downloads/manual"
  )


def _import_tfds():
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise _missing_extra(error) from error
  return tfds


def _missing_extra(error):
  return ImportError(f"{error}: this dataset needs {_EXTRA}")
