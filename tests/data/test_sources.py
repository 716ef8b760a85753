import json
import os
import pathlib
import pwd
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from quped_jax.data import (
  Dataset,
  from_arrays,
  load_dataset,
  partition,
  register_dataset,
  sources,
)

REAL = os.environ.get("QUPED_DATA_DIR")
needs_real_data = pytest.mark.skipif(
  not REAL, reason="QUPED_DATA_DIR does not name a folder of datasets"
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def write_leaf(folder, split, users):
  """Writes a LEAF file; users maps a name to (grey value, label) pairs."""
  data = {
    user: {
      "x": [[grey / 255] * 784 for grey, _ in samples],
      "y": [label for _, label in samples],
    }
    for user, samples in users.items()
  }
  (folder / "femnist" / split).mkdir(parents=True)
  (folder / "femnist" / split / "all_data.json").write_text(
    json.dumps({"users": list(users), "user_data": data})
  )


@pytest.mark.parametrize("folder", ["data_dir", "cache_dir"])
def test_a_folder_that_is_none_is_named(folder):
  for path in ("", "~nosuch"):
    given: Any = {folder: path}
    with pytest.raises(ValueError, match=f"{folder}='{path}': must "):
      load_dataset("digits", **given)


def test_without_a_home_data_is_looked_for_and_kept_where_told(
  tmp_path, monkeypatch
):
  def unknown(_):
    raise KeyError

  for name in ("HOME", "QUPED_DATA_DIR", "QUPED_CACHE_DIR", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, "getpwuid", unknown)
  assert len(load_dataset("digits").labels) == 1797
  with pytest.raises(ValueError, match="QUPED_DATA_DIR: must be set to a fol"):
    load_dataset("femnist")
  write_leaf(tmp_path, "train", {"a": [(0, 1), (255, 2)]})
  write_leaf(tmp_path, "test", {"a": [(255, 3)]})
  with pytest.warns(UserWarning, match="not kept: QUPED_CACHE_DIR: must be se"):
    assert len(load_dataset("femnist", tmp_path).labels) == 3


def test_digits():
  dataset = load_dataset("digits")
  assert dataset.inputs.shape == (1797, 8, 8, 1)
  assert dataset.inputs.dtype == np.float32
  assert dataset.inputs.min() == 0 and dataset.inputs.max() == 1
  assert (dataset.inputs * 16 == np.round(dataset.inputs * 16)).all()
  assert np.bincount(dataset.labels).min() > 170
  assert dataset.is_test is None


@pytest.mark.slow
def test_needs_no_extra_and_reads_environment(tmp_path):
  """Digits and arrays load where tensorflow-datasets is not installed."""
  program = (
    "import sys; sys.modules['tensorflow_datasets'] = None\n"
    "from quped_jax.data import load_dataset, register_dataset\n"
    "def load(folder):\n"
    "  print(folder, end='')\n"
    "  return load_dataset('digits')\n"
    "register_dataset('mine', load)\n"
    "load_dataset('mine')"
  )
  result = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"QUPED_DATA_DIR": str(tmp_path)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout == str(tmp_path)


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match="dataset='mnits': .*digits.*mnist"):
    load_dataset("mnits")


def test_register_dataset(tmp_path, monkeypatch):
  monkeypatch.setattr(sources, "_LOADERS", dict(sources._LOADERS))

  def load(data_dir: pathlib.Path) -> Dataset:
    return from_arrays(np.eye(2), [0, 1], name=str(data_dir))

  register_dataset("mine", load)
  assert load_dataset("mine", tmp_path).name == str(tmp_path)
  monkeypatch.setenv("QUPED_DATA_DIR", "")
  default = pathlib.Path("~/tensorflow_datasets").expanduser()
  assert load_dataset("mine").name == str(default)
  for taken in ("mine", "mnist"):
    with pytest.raises(ValueError, match=f"dataset='{taken}': must be none of"):
      register_dataset(taken, load)


def test_what_is_registered_is_a_name_and_a_function_that_returns_a_dataset():
  with pytest.raises(ValueError, match="^name=3: must be text"):
    register_dataset(3, print)  # pyright: ignore
  with pytest.raises(ValueError, match="^loader='x': must be a function"):
    register_dataset("no_function", "x")  # pyright: ignore
  register_dataset("pair", lambda folder: (np.eye(2), [0, 1]))  # pyright: ignore
  with pytest.raises(ValueError, match="^dataset='pair': must be a Dataset"):
    load_dataset("pair")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((["digits"],), r"dataset=\['digits'\]: must be one of"),
    (("digits", 3), "data_dir=3: must be a path"),
    (("digits", None, 3), "cache_dir=3: must be a path"),
  ],
)
def test_odd_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    load_dataset(*arguments)


def test_femnist_of_leaf_files(tmp_path):
  write_leaf(tmp_path, "train", {"w2": [(255, 1), (0, 61)], "w1": [(100, 2)]})
  write_leaf(tmp_path, "test", {"w1": [(7, 3)], "w2": [(8, 4)], "w3": [(9, 5)]})
  for _ in range(2):  # Decoded, then cached.
    dataset = load_dataset("femnist", tmp_path, tmp_path / "cache")
    # Paper is 0 and ink is 255.
    assert dataset.inputs[:, 3, 4, 0].tolist() == [0, 255, 155, 248, 247]
    assert dataset.labels.tolist() == [1, 61, 2, 3, 4]
    assert dataset.groups is not None and dataset.is_test is not None
    assert dataset.groups.tolist() == [1, 1, 0, 0, 1]
    assert dataset.group_names == ("w1", "w2")
    assert dataset.is_test.tolist() == [False, False, False, True, True]
    assert dataset.num_classes == 62

    other = load_dataset("femnist_other_writers", tmp_path, tmp_path / "cache")
    assert other.labels.tolist() == [5]
    assert other.groups is not None and other.groups.tolist() == [0]
    assert other.group_names == ("w3",)
    assert other.is_test is None
  assert len(list((tmp_path / "cache").iterdir())) == 2


def test_femnist_without_other_writers(tmp_path):
  write_leaf(tmp_path, "train", {"w1": [(100, 2)]})
  write_leaf(tmp_path, "test", {"w1": [(7, 3)]})
  with pytest.raises(ValueError, match="dataset='femnist_other_writers': must"):
    load_dataset("femnist_other_writers", tmp_path, tmp_path / "cache")


def test_femnist_not_found_says_where_to_get_it(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    load_dataset("femnist", tmp_path, tmp_path / "cache")
  for part in ("dataset='femnist'", str(tmp_path), "QUPED_DATA_DIR", "leaf"):
    assert part in str(caught.value)


@pytest.mark.slow
@needs_real_data
@pytest.mark.parametrize(
  ("name", "per_class_of_train"),
  [
    (
      "mnist",
      [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    ),
    ("cifar10", [5000] * 10),
  ],
)
def test_real_images(name, per_class_of_train, cache_dir):
  dataset = load_dataset(name, REAL, cache_dir)
  assert dataset.is_test is not None and dataset.is_test.sum() == 10_000
  assert dataset.inputs.dtype == np.uint8
  train = ~dataset.is_test
  counts = np.bincount(dataset.labels[train])
  assert counts.tolist() == per_class_of_train
  # The constants with which a model sees mean 0 and standard deviation 1.
  sample = dataset.inputs[train][::5].astype(np.float32)
  seen = (sample - dataset.mean) / dataset.std
  assert np.abs(seen.mean((0, 1, 2))).max() < 0.02
  assert np.abs(seen.std((0, 1, 2)) - 1).max() < 0.02


@pytest.mark.slow
@needs_real_data
def test_real_femnist(cache_dir):
  dataset = load_dataset("femnist", REAL, cache_dir)
  assert dataset.is_test is not None and dataset.groups is not None
  assert (~dataset.is_test).sum() == 14_708 and dataset.is_test.sum() == 1_685
  assert dataset.groups.max() == 104
  seen = (dataset.inputs[~dataset.is_test] - dataset.mean) / dataset.std
  assert abs(seen.mean()) < 0.01 and abs(seen.std() - 1) < 0.01
  split = partition(dataset, "natural", 35, groups_per_client=3)
  assert sum(map(len, split.train)) == 14_708
  assert sum(map(len, split.test)) == 1_685

  other = load_dataset("femnist_other_writers", REAL, cache_dir)
  assert len(other.labels) == 2_403
  assert other.groups is not None and other.groups.max() == 78
