import dataclasses

import numpy as np
import pytest

from quped_jax.data import Dataset, from_arrays, from_npy

GOOD = Dataset(
  name="good",
  inputs=np.zeros((4, 2, 3), np.float32),
  labels=np.array([0, 1, 2, 2], np.int32),
  num_classes=3,
  is_test=np.array([False, False, True, False]),
  groups=np.array([5, 0, 1, 0], np.int32),
  mean=np.zeros(3),
  std=2.0,
)


def floats_with(value):
  inputs = GOOD.inputs.copy()
  inputs[1, 1, 1] = value
  return inputs


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("inputs", np.zeros((4, 2)), "inputs.dtype=float64: must be uint8 or"),
    ("inputs", np.zeros(4, np.uint8), r"inputs.shape=\(4,\): must be"),
    ("inputs", np.zeros((0, 2), np.uint8), r"inputs.shape=\(0, 2\): must be"),
    ("inputs", floats_with(np.nan), "inputs=nan: must be finite"),
    ("inputs", floats_with(-np.inf), "inputs=-inf: must be finite"),
    ("labels", np.zeros(3, np.int32), r"labels.shape=\(3,\): must be \(4,\)"),
    ("labels", np.zeros(4), "labels.dtype=float64: must be int32"),
    ("labels", np.array([0, 1, 2, 3], np.int32), "labels=3: .* 0 and 2"),
    ("labels", np.array([0, 1, 2, -1], np.int32), "labels=-1: .* 0 and 2"),
    ("num_classes", 1, "num_classes=1: must be at least 2"),
    ("is_test", np.zeros(5, bool), r"is_test.shape=\(5,\): must be \(4,\)"),
    ("is_test", np.zeros(4, np.int32), "is_test.dtype=int32: must be bool"),
    ("groups", np.zeros(5, np.int32), r"groups.shape=\(5,\): must be"),
    ("groups", np.full(4, -2, np.int32), "groups=-2: must not be negative"),
    ("mean", np.zeros(2), r"mean.shape=\(2,\): must broadcast to one sample"),
    ("mean", np.zeros((1, 2, 3)), r"mean.shape=\(1, 2, 3\): must broadcast"),
    ("mean", np.nan, "mean=nan: must be finite"),
    ("std", 0.0, "std=0.0: must be positive"),
    ("std", np.array([1.0, -1.0, 1.0]), "std=.*: must be positive"),
  ],
)
def test_errors_name_the_field(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(GOOD, **{field: value})


def test_from_arrays_converts():
  dataset = from_arrays([[1, 2], [3, 4]], [4, 0], groups=[7, 7], std=3.0)
  assert dataset.name == "arrays"
  assert dataset.inputs.dtype == np.float32
  assert dataset.groups is not None
  assert dataset.labels.dtype == dataset.groups.dtype == np.int32
  assert dataset.num_classes == 5
  assert dataset.is_test is None
  assert dataset.std == 3.0
  np.testing.assert_array_equal(dataset.inputs, [[1, 2], [3, 4]])


def test_from_arrays_keeps_bytes():
  inputs = np.arange(6, dtype=np.uint8).reshape(2, 3)
  dataset = from_arrays(inputs, [0, 1], num_classes=4, is_test=[False, True])
  assert dataset.inputs is inputs
  assert dataset.num_classes == 4
  np.testing.assert_array_equal(dataset.is_test, [False, True])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"inputs": [["a"], ["b"]]}, "inputs.dtype=<U1: must be real numbers"),
    ({"inputs": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "inputs.shape"),
    ({"labels": [0.0, 1.0]}, "labels.dtype=float64: must be integers"),
    ({"labels": [0, 2**32]}, "labels=4294967296: must be less than"),
    ({"labels": [0, 2**32], "num_classes": 2}, "labels=4294967296: "),
    ({"labels": [0, -1]}, "labels=-1: must not be negative"),
    ({"labels": [0, 3], "num_classes": 3}, "labels=3: must be between 0 and 2"),
    ({"labels": [0, 1, 0]}, r"labels.shape=\(3,\): must be \(2,\)"),
    ({"groups": [0.5, 1.0]}, "groups.dtype=float64: must be integers"),
    ({"inputs": [[1e39], [0.0]]}, "inputs=inf: must be finite"),
  ],
)
def test_from_arrays_errors(changes, message):
  arrays = {"inputs": np.zeros((2, 3)), "labels": [0, 1]} | changes
  with pytest.raises(ValueError, match=message):
    from_arrays(**arrays)


def test_from_npy(tmp_path):
  np.save(tmp_path / "x.npy", np.eye(3))
  np.save(tmp_path / "y.npy", np.arange(3))
  dataset = from_npy(tmp_path / "x.npy", str(tmp_path / "y.npy"))
  assert dataset.name == "x.npy"
  np.testing.assert_array_equal(dataset.inputs, np.eye(3))
  np.testing.assert_array_equal(dataset.labels, [0, 1, 2])


def test_from_npy_takes_only_plain_arrays(tmp_path):
  np.save(tmp_path / "x.npy", np.eye(3))
  objects, archive = tmp_path / "objects.npy", tmp_path / "archive.npz"
  empty = tmp_path / "empty.npy"
  np.save(objects, np.array([{}, {}, {}]), allow_pickle=True)
  np.savez(archive, a=np.eye(3))
  empty.touch()
  vast, torn = tmp_path / "vast.npy", tmp_path / "torn.npz"
  head = np.lib.format.magic(1, 0) + b"\x76\0"
  about = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,)}"
  vast.write_bytes(head + about.ljust(117) + b"\n")
  torn.write_bytes(archive.read_bytes()[:100])
  for path in (objects, archive, empty, vast, torn, tmp_path):
    with pytest.raises(ValueError, match=f"labels_path='.*{path.name}': must"):
      from_npy(tmp_path / "x.npy", path)
  with pytest.raises(FileNotFoundError, match=r"none\.npy"):
    from_npy(tmp_path / "none.npy", objects)
