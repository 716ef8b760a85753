import gzip
import io
import json
import struct
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.data import load_dataset, tfds_source
from tests.hostile import cases, damaged, other_json, read_or_refused

RNG = np.random.default_rng(0)


def write_mnist(folder):
  """Writes four gzipped idx files; returns images and labels by split."""
  splits = {}
  for split, prefix, size in (("train", "train", 12), ("test", "t10k", 5)):
    images = RNG.integers(0, 256, (size, 28, 28, 1), np.uint8)
    labels = RNG.integers(0, 10, size, np.uint8)
    header = struct.pack(">4i", 2051, size, 28, 28)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
      gzip.compress(header + images.tobytes())
    )
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
      gzip.compress(struct.pack(">2i", 2049, size) + labels.tobytes())
    )
    splits[split] = images, labels
  return splits


def write_cifar10(folder):
  """Writes the archive of binary batches; returns images and labels."""
  images = RNG.integers(0, 256, (18, 32, 32, 3), np.uint8)
  labels = RNG.integers(0, 10, 18, np.uint8)
  names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
  with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
    # The order in the archive is not the order of the batches.
    for place in (5, 3, 1, 0, 2, 4):
      content = b"".join(
        bytes([labels[i]]) + images[i].transpose(2, 0, 1).tobytes()
        for i in range(3 * place, 3 * place + 3)
      )
      info = tarfile.TarInfo(f"cifar-10-batches-bin/{names[place]}")
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return {
    "train": (images[:15], labels[:15]),
    "test": (images[15:], labels[15:]),
  }


def in_fixed_order(images, labels):
  return sorted(
    (int(label), image.tobytes())
    for image, label in zip(images, labels, strict=True)
  )


@pytest.mark.parametrize(
  ("name", "write"),
  [
    ("mnist", write_mnist),
    ("fashion_mnist", write_mnist),
    ("cifar10", write_cifar10),
  ],
)
def test_prepares_raw_files_without_tensorflow(
  name, write, tmp_path, monkeypatch
):
  pytest.importorskip("importlib_resources")
  tfds = pytest.importorskip("tensorflow_datasets")
  raw = tmp_path / "downloads" / "manual"
  raw.mkdir(parents=True)
  splits = write(raw)
  # The real download manager would refuse the checksums of these files.
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    "download",
    lambda self, urls: {filename: raw / filename for filename in urls},
  )
  dataset = load_dataset(name, tmp_path, tmp_path / "cache")
  assert dataset.is_test is not None
  for split, (images, labels) in splits.items():
    rows = dataset.is_test == (split == "test")
    assert in_fixed_order(dataset.inputs[rows], dataset.labels[rows]) == (
      in_fixed_order(images, labels)
    )
  assert tfds_source.find_prepared(name, tmp_path) is not None
  assert "tensorflow" not in sys.modules

  # The second time neither the raw files nor tensorflow-datasets is needed.
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  again = load_dataset(name, tmp_path, tmp_path / "cache")
  np.testing.assert_array_equal(again.inputs, dataset.inputs)
  np.testing.assert_array_equal(again.is_test, dataset.is_test)


def test_without_a_network_says_what_to_do(tmp_path, monkeypatch):
  pytest.importorskip("importlib_resources")
  pytest.importorskip("tensorflow_datasets")
  requests = pytest.importorskip("requests")
  asked = []

  def get(url, stream, timeout):
    assert stream and timeout <= 10
    asked.append(url)
    raise requests.ConnectionError

  monkeypatch.setattr(requests, "get", get)
  with pytest.raises(FileNotFoundError) as caught:
    load_dataset("cifar10", tmp_path, tmp_path / "cache")
  assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
  message = str(caught.value)
  for part in (
    "dataset='cifar10': not in",
    str(tmp_path / "cifar10"),
    asked[0],
    "QUPED_DATA_DIR",
    "load_dataset('cifar10')",
    f"cifar-10-binary.tar.gz into {tmp_path}/downloads/manual",
  ):
    assert part in message


def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(ImportError, match=r"pip install 'quped_jax\[data\]'"):
    load_dataset("mnist", tmp_path, tmp_path / "cache")


def write_info(folder, file_format):
  folder.mkdir(parents=True)
  info = json.dumps({"fileFormat": file_format})
  (folder / "dataset_info.json").write_text(info)


def test_finds_the_newest_version(tmp_path):
  assert tfds_source.find_prepared("mnist", tmp_path) is None
  for version in ("3.0.9", "3.0.10", "incomplete.ABC_9.0.0"):
    write_info(tmp_path / "mnist" / version, "array_record")
  write_info(tmp_path / "mnist" / "4.0.0", "tfrecord")
  found = tfds_source.find_prepared("mnist", tmp_path)
  assert found == tmp_path / "mnist" / "3.0.10"


def test_other_formats_are_refused(tmp_path):
  write_info(tmp_path / "mnist" / "3.0.1", "tfrecord")
  with pytest.raises(ValueError, match="'mnist' must be in array_record"):
    tfds_source.find_prepared("mnist", tmp_path)


@pytest.mark.parametrize(
  "text", ["[]", "[" * 100_000, '{"fileFormat": 3}', "x", '{"a": 1, "a": 2}']
)
def test_a_description_of_something_else_is_refused(text, tmp_path):
  write_info(tmp_path / "mnist" / "3.0.1", "array_record")
  (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text(text)
  with pytest.raises(
    ValueError, match=r"dataset_info\.json: must be the descr"
  ):
    tfds_source.find_prepared("mnist", tmp_path)


@given(data=st.data())
@cases(30)
def test_a_hostile_description_is_right_or_refused(data, tmp_path_factory):
  folder = tmp_path_factory.getbasetemp() / "described"
  path = folder / "mnist" / "1.0.0" / "dataset_info.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  good = {"fileFormat": "array_record", "splits": [{"name": "train"}]}
  path.write_bytes(data.draw(other_json(good)))
  found = read_or_refused(
    lambda: tfds_source.find_prepared("mnist", folder), ""
  )
  said = '"array_record"' in path.read_text() and '"fileFormat"' in (
    path.read_text()
  )
  assert found in (None, path.parent) and (found is None or said)


def test_files_that_cannot_be_decoded_are_refused(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  folder = tmp_path / "mnist" / "3.0.1"
  write_info(folder, "array_record")
  with pytest.raises(
    ValueError, match=r"3\.0\.1: must be a dataset that tensor"
  ):
    load_dataset("mnist", tmp_path, tmp_path / "cache")


def raw_paths(folder):
  return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: x[:-1], "it has not the 12 samples that it says"),
    (lambda x: x + b"0", "it has not the 12 samples that it says"),
    (lambda x: b"\0\0\x09\x03" + x[4:], r"its header is \[2307, 12, 28, 28\]"),
    (lambda x: x[:8] + x[12:16] + b"\0\0\0\1" + x[16:], "its header is"),
    (lambda x: x[:10], "it has 10 bytes, which is no header"),
    (lambda x: x[:4], "it has 4 bytes, which is no header"),
    (lambda x: b"", "it has 0 bytes, which is no header"),
  ],
)
def test_raw_images_of_another_form_are_refused(change, message, tmp_path):
  write_mnist(tmp_path)
  path = tmp_path / "train-images-idx3-ubyte.gz"
  path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
  with pytest.raises(ValueError, match=rf"train-images.*: must .*{message}"):
    tfds_source._read_mnist(raw_paths(tmp_path))


def test_raw_labels_of_another_form_are_refused(tmp_path):
  write_mnist(tmp_path)
  path = tmp_path / "train-labels-idx1-ubyte.gz"
  path.write_bytes(gzip.compress(b"\0\0\x08\x01"))
  with pytest.raises(ValueError, match="it has 4 bytes, which is no header"):
    tfds_source._read_mnist(raw_paths(tmp_path))


def test_a_small_archive_of_very_much_is_not_unpacked(tmp_path, monkeypatch):
  write_mnist(tmp_path)
  monkeypatch.setattr(tfds_source, "_MOST_RAW", 2**16)
  path = tmp_path / "t10k-labels-idx1-ubyte.gz"
  path.write_bytes(
    gzip.compress(struct.pack(">2i", 2049, 2**24) + b"\0" * 2**24)
  )
  found = read_or_refused(
    lambda: tfds_source._read_mnist(raw_paths(tmp_path)),
    f"{path}: must be",
    most=2**22,
  )
  assert found is None


@given(data=st.data())
@cases(30)
def test_a_hostile_raw_file_is_right_or_refused(data, tmp_path_factory):
  folder = tmp_path_factory.getbasetemp() / "raw"
  if not folder.exists():
    folder.mkdir()
    write_mnist(folder)
    write_cifar10(folder)
  paths = raw_paths(folder)
  name = data.draw(st.sampled_from(sorted(paths)))
  content = paths[name].read_bytes()
  try:
    if data.draw(st.booleans()):
      paths[name].write_bytes(data.draw(damaged(content)))
    else:
      inner = data.draw(damaged(gzip.decompress(content)))
      paths[name].write_bytes(gzip.compress(inner))
    read = tfds_source._read_mnist
    if name.startswith("cifar"):
      read = tfds_source._read_cifar10
    found = read_or_refused(lambda: read(paths), f"{paths[name]}: must be")
  finally:
    paths[name].write_bytes(content)
  if found is not None:
    shape = (32, 32, 3) if name.startswith("cifar") else (28, 28, 1)
    for images, labels in found.values():
      assert images.shape[1:] == shape and labels.ndim == 1
      assert images.dtype == labels.dtype == np.uint8
