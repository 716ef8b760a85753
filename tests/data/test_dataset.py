import dataclasses
import re

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
    ("num_classes", 2.5, "num_classes=2.5: must be a whole number"),
    ("name", None, "name=None: must be text"),
    ("std", 1e-300, "std=1e-300: must be at least 1.2e-38"),
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
  dataset = from_arrays(
    [[1, 2], [3, 4]], [4, 0], num_classes=5, groups=[7, 7], std=3.0
  )
  assert dataset.name == "arrays"
  assert dataset.inputs.dtype == np.float32
  assert dataset.groups is not None
  assert dataset.labels.dtype == dataset.groups.dtype == np.int32
  assert dataset.groups.tolist() == [7, 7] and dataset.group_names is None
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
    ({"inputs": [["a"], ["b"]]}, "inputs='a': must be real numbers"),
    ({"inputs": np.array([["a"], ["b"]])}, "inputs.dtype=<U1: must be real"),
    ({"inputs": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "inputs.shape"),
    ({"inputs": [1.0, 2.0]}, r"inputs.shape=\(2,\): .*inputs\[:, None\]"),
    ({"labels": [0, 1, 0]}, r"labels.shape=\(3,\): must be \(2,\)"),
    ({"inputs": [[1e39], [0.0]]}, "inputs=1e.39: must be at most 3.4e.38"),
    ({"inputs": [[-1e300], [0.0]]}, "inputs=-1e.300: must be at most 3.4e.38"),
    ({"inputs": [[1e-300], [0.0]]}, "inputs=1e-300: must be larger"),
    ({"inputs": [[np.inf], [0.0]]}, "inputs=inf: must be finite"),
    ({"mean": 1e300}, "mean=1e.300: must be finite, and at most 3.4e.38"),
    ({"mean": "a"}, "mean.dtype=<U1: must be real numbers"),
    ({"std": 1e-300}, "std=1e-300: must be at least 1.2e-38"),
    ({"std": [1.0, 0.0, 1.0]}, "std=0.0: must be positive"),
    ({"inputs": np.full((2, 3), 1e9), "std": 1e-30}, "std=1e-30: .* 1e.39"),
    ({"inputs": np.full((2, 3), 3e38), "mean": -3e38}, "std=1.0: .* 6e.38"),
    ({"num_classes": 2.0}, "num_classes=2.0: must be a whole number"),
    ({"num_classes": "2"}, "num_classes='2': must be a whole number"),
    ({"num_classes": True}, "num_classes=True: must be a whole number"),
    ({"is_test": [0, 2]}, "is_test=2: must be bools, or 0 and 1"),
    ({"is_test": "no"}, "is_test.dtype=<U2: must be"),
    ({"is_test": [True]}, r"is_test.shape=\(1,\): must be \(2,\)"),
    ({"groups": [[1, 2], [3, 4]]}, r"groups.shape=\(2, 2\): must be \(2,\)"),
    ({"name": 3}, "name=3: must be text"),
  ],
)
def test_from_arrays_errors(changes, message):
  arrays = {"inputs": np.ones((2, 3)), "labels": [0, 1]} | changes
  with pytest.raises(ValueError, match=f"^{message}"):
    from_arrays(**arrays)


def test_a_dataset_is_of_plain_arrays():
  masked = np.ma.masked_equal(GOOD.inputs, 0.0)
  for changes in ({"inputs": masked}, {"inputs": [[1.0]]}, {"labels": [0, 1]}):
    (field,) = changes
    with pytest.raises(ValueError, match=f"^{field}: must be a plain NumPy"):
      dataclasses.replace(GOOD, **changes)


def test_names_are_as_many_as_what_they_name():
  names = tuple("abcdef")
  named = dataclasses.replace(GOOD, group_names=names)
  assert named.group_names == names
  for field, value, message in (
    ("group_names", ("a",), "must be from 6 to 6 names; got 1"),
    ("class_names", names, "must be from 1 to 3 names; got 6"),
    ("class_names", ["a", "b", "c"], "must be a tuple of text"),
    ("class_names", (1, 2, 3), "must be a tuple of text"),
  ):
    with pytest.raises(ValueError, match=f"^{field}.*: {message}"):
      dataclasses.replace(GOOD, **{field: value})


@pytest.mark.parametrize(
  ("inputs", "changes"),
  [
    (np.full((4, 3), 200, np.uint8), {}),
    (np.full((4, 3), 1e30), {}),
    (np.full((4, 3), 1e-6), {}),
    (np.full((4, 3), 1e30), {"std": 1.0}),
    (np.full((4, 3), 1.0), {"std": 1e-30}),
  ],
)
def test_inputs_of_another_size_than_networks_train_on_are_warned_of(
  inputs, changes
):
  with pytest.warns(UserWarning, match="^inputs: are of size "):
    from_arrays(inputs, [0, 1, 0, 1], **changes)


@pytest.mark.parametrize(
  ("inputs", "changes"),
  [
    (np.full((4, 3), 200, np.uint8), {"std": 255.0}),
    (np.full((4, 3), 200, np.uint8), {"std": 1.0}),
    (np.full((4, 3), 200, np.uint8), {"mean": 199.0}),
    (np.full((4, 3), 50_000.0), {"std": np.float32(1)}),
    (np.full((4, 3), 16.0) * [[0.1, 0.2, 1.0]], {}),
    (np.zeros((4, 3)), {}),
    (np.eye(4), {}),
  ],
)
def test_inputs_that_are_normalised_or_meant_so_are_not(inputs, changes):
  from_arrays(inputs, [0, 1, 0, 1], **changes)


def test_the_size_that_the_warning_proposes_is_one():
  inputs = np.random.default_rng(0).integers(0, 256, (3000, 5)).astype(np.uint8)
  labels = np.arange(3000) % 2
  with pytest.warns(UserWarning) as caught:
    from_arrays(inputs, labels)
  found = re.search(r"mean=([\d.]+), std=([\d.]+)", str(caught[0].message))
  assert found is not None
  mean, std = map(float, found.groups())
  dataset = from_arrays(inputs, labels, mean=mean, std=std)
  normalised = (inputs - dataset.mean) / dataset.std
  assert abs(normalised.mean()) < 0.1 and abs(normalised.std() - 1) < 0.1


def test_from_npy(tmp_path):
  np.save(tmp_path / "x.npy", np.eye(3))
  np.save(tmp_path / "y.npy", np.arange(3))
  dataset = from_npy(tmp_path / "x.npy", str(tmp_path / "y.npy"))
  assert dataset.name == "x.npy"
  np.testing.assert_array_equal(dataset.inputs, np.eye(3))
  np.testing.assert_array_equal(dataset.labels, [0, 1, 2])


def test_the_cure_of_unscaled_inputs_works():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(40, 4)) + 12345.678
  with pytest.warns(UserWarning) as caught:
    from_arrays(inputs, np.arange(40) % 2)
  found = re.search("mean=([^,]*), std=([^,]*),", str(caught[0].message))
  assert found is not None
  mean, std = map(float, found.groups())
  scaled = (inputs - mean) / std
  assert abs(np.mean(scaled)) < 0.1 and abs(np.std(scaled) - 1) < 0.1


def test_inputs_that_float32_does_not_tell_apart_are_told():
  inputs = np.uint64(2**63) + np.arange(40, dtype=np.uint64).reshape(40, 1)
  with pytest.warns(UserWarning, match="subtract their mean, in float64"):
    from_arrays(inputs, np.arange(40) % 2)


def test_from_npy_takes_what_from_arrays_does(tmp_path):
  np.save(tmp_path / "x.npy", np.full((3, 2), 200, np.uint8))
  np.save(tmp_path / "y.npy", np.array([[1.0], [2.0], [2.0]]))
  dataset = from_npy(
    tmp_path / "x.npy", tmp_path / "y.npy", num_classes=4, mean=200, std=255
  )
  assert dataset.labels.tolist() == [1, 2, 2] and dataset.num_classes == 4
  assert (dataset.mean, dataset.std) == (200, 255)
  np.save(tmp_path / "x.npy", np.arange(3 * 3 * 64).reshape(3, 3, 8, 8))
  dataset = from_npy(
    tmp_path / "x.npy",
    tmp_path / "y.npy",
    num_classes=4,
    channels="first",
    standardize=True,
  )
  assert dataset.inputs.shape == (3, 8, 8, 3) and np.shape(dataset.std) == (3,)


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


def test_a_client_column_is_that_of_the_groups():
  client = np.array(["b", "a"] * 3, object)
  dataset = from_arrays(np.eye(6), [0, 1] * 3, client=client)
  assert dataset.group_names == ("a", "b")
  assert dataset.groups is not None
  assert dataset.groups.tolist() == [1, 0] * 3
  with pytest.raises(ValueError, match="^client: must be left out beside grou"):
    from_arrays(np.eye(6), [0, 1] * 3, client=client, groups=client)
  with pytest.raises(ValueError, match="^client=None: must not be missing"):
    from_arrays(np.eye(2), [0, 1], client=[None, "a"])


def test_standardized_inputs_are_those_of_the_training_samples():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(400, 3)) * [1, 1e4, 0] + [5, -1e6, 3]
  is_test = np.arange(400) >= 300
  inputs[is_test] += 1e5
  with pytest.warns(UserWarning, match="^inputs: 1 of 3 features"):
    dataset = from_arrays(
      inputs - [0, 0, 1e5] * is_test[:, None],
      np.arange(400) % 2,
      is_test=is_test,
      standardize=True,
    )
  np.testing.assert_allclose(dataset.mean, inputs[:300].mean(axis=0))
  np.testing.assert_allclose(dataset.std, [*inputs[:300].std(axis=0)[:2], 1.0])


@pytest.mark.parametrize(
  ("shape", "axes"),
  [((60, 3), (0,)), ((60, 4, 4, 3), (0, 1, 2)), ((60, 4, 3), (0, 1, 2))],
)
def test_standardized_images_have_a_scale_for_each_channel(shape, axes):
  inputs = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  dataset = from_arrays(inputs, np.arange(60) % 2, standardize=True)
  assert dataset.inputs.dtype == np.uint8
  mean, std = inputs.mean(axis=axes), inputs.std(axis=axes)
  np.testing.assert_allclose(dataset.mean, np.atleast_1d(mean))
  np.testing.assert_allclose(dataset.std, np.atleast_1d(std))
  with pytest.raises(ValueError, match="^standardize=True: must be False wh"):
    from_arrays(inputs, np.arange(60) % 2, standardize=True, mean=3.0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"client": [0, 1]}, r"client.shape=\(2,\): must be \(6,\), one entry per"),
    ({"groups": [0, 1]}, r"groups.shape=\(2,\): must be \(6,\), one entry per"),
    (
      {"feature_names": ["a"]},
      r"feature_names=\['a'\]: must be 2 names for in",
    ),
  ],
)
def test_what_is_of_another_length_is_called_as_it_was_given(options, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    from_arrays(np.eye(6)[:, :2], [0, 1] * 3, **options)
