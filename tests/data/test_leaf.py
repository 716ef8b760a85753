import json

import numpy as np
import pytest

from quped_jax.data import leaf


def write(path, images_by_user, labels_by_user):
  path.parent.mkdir(parents=True, exist_ok=True)
  data = {
    user: {
      # LEAF's files vary in the number of digits they keep.
      "x": np.round(images.reshape(-1, 784) / 255, 4).tolist(),
      "y": labels_by_user[user],
    }
    for user, images in images_by_user.items()
  }
  path.write_text(json.dumps({"users": list(data), "user_data": data}))


def test_reads_every_user_of_every_file(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 28, 28, 1), np.uint8)
  write(
    tmp_path / "train" / "1.json",
    {"f1": images[:2], "f2": images[2:3]},
    {"f1": [3, 61], "f2": [0]},
  )
  write(tmp_path / "train" / "2.json", {"f3": images[3:]}, {"f3": [7, 7]})
  write(tmp_path / "test" / "1.json", {"f1": images[:1]}, {"f1": [3]})
  files = leaf.find_files(tmp_path)
  assert [len(paths) for paths in files.values()] == [2, 1]
  read_images, labels, writers = leaf.read_split(files["train"])
  assert read_images.dtype == np.uint8 and labels.dtype == np.int32
  np.testing.assert_array_equal(read_images, images)
  np.testing.assert_array_equal(labels, [3, 61, 0, 7, 7])
  assert writers.tolist() == ["f1", "f1", "f2", "f3", "f3"]


def test_both_splits_are_needed(tmp_path):
  assert leaf.find_files(tmp_path) == {}
  write(tmp_path / "train" / "1.json", {}, {})
  assert leaf.find_files(tmp_path) == {}


@pytest.mark.parametrize(
  "content",
  [
    "not json",
    "[]",
    '{"users": ["a"], "user_data": {}}',
    '{"users": ["a"], "user_data": {"a": {"x": [[0.5, 1.0]], "y": [1]}}}',
    json.dumps(
      {"users": ["a"], "user_data": {"a": {"x": [[0.0] * 784], "y": [1, 2]}}}
    ),
  ],
)
def test_errors_name_the_file(tmp_path, content):
  (tmp_path / "bad.json").write_text(content)
  with pytest.raises(ValueError, match=r"bad\.json: must be a file as LEAF"):
    leaf.read_split([tmp_path / "bad.json"])
