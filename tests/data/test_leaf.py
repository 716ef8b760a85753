import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.data import leaf
from tests.hostile import cases, other_json, read_or_refused


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


def content(x=0.5, y=1, user="a", **changes):
  """A file of one image, one of whose values is x."""
  data = {user: {"x": [[x] + [0.0] * 783], "y": [y]}}
  return {"users": [user], "user_data": data, **changes}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"y": 1.5},
      r"user_data.a.y\[0\]=1.5: must be a .* from 0 to 61",
    ),
    ({"y": 1.0}, r"y\[0\]=1.0: must be a whole number"),
    ({"y": True}, r"y\[0\]=True: must be a whole number"),
    ({"y": "1"}, r"y\[0\]='1': must be a whole number"),
    ({"y": 62}, r"y\[0\]=62: must be a whole number from 0 to 61"),
    ({"y": -1}, r"y\[0\]=-1: must be a whole number"),
    ({"y": 2**32 + 1}, r"y\[0\]=4294967297: must be a whole number"),
    ({"y": 10**400}, r"y\[0\]=1000.*: must be a whole number"),
    ({"x": 2.0}, r"user_data.a.x\[0\]=\[2.0, .*: must be 784 grey values from"),
    ({"x": -0.5}, r"x\[0\]=\[-0.5, .*: must be 784 grey values"),
    ({"x": float("nan")}, r"x\[0\]=\[nan, .*: must be 784 grey values"),
    ({"x": float("inf")}, r"x\[0\]=\[inf, .*: must be 784 grey values"),
    ({"x": True}, r"x\[0\]=\[True, .*: must be 784 grey values"),
    ({"x": "0.5"}, r"x\[0\]=\['0.5', .*: must be 784 grey values"),
    ({"x": None}, r"x\[0\]=\[None, .*: must be 784 grey values"),
    ({"x": 10**400}, "user_data.a.x: int too large"),
    ({"users": ["a", "a"]}, "users: must each be given only once"),
    ({"users": [1]}, r"users\[0\]=1: must be text"),
    ({"users": ["b"]}, "user_data.b: must be given"),
    ({"users": "a"}, "users='a': must be a list"),
    ({"user": "a\0"}, r"users\[0\]='a\\x00': must be text"),
    ({"user_data": {"a": {"x": [[0.0] * 392] * 2, "y": [1]}}}, r"x\[0\]=\[0.0"),
    ({"user_data": {"a": {"x": [], "y": [1]}}}, "must have as many images as"),
    ({"user_data": {"a": {"x": 3, "y": [1]}}}, "x=3: must be a list of images"),
    ({"user_data": {"a": {"y": [1]}}}, "user_data.a.x: must be given"),
  ],
)
def test_values_are_taken_for_no_others(tmp_path, changes, message):
  path = tmp_path / "bad.json"
  path.write_text(json.dumps(content(**changes)))
  with pytest.raises(ValueError, match=rf"bad\.json: must be a .*{message}"):
    leaf.read_split([path])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"users":' * 100_000])
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path, text):
  (tmp_path / "bad.json").write_text(text)
  with pytest.raises(ValueError, match=r"bad\.json: must .*nested too deeply"):
    leaf.read_split([tmp_path / "bad.json"])


def test_a_key_that_is_given_twice_is_refused(tmp_path):
  text = json.dumps(content()).replace('"y": [1]', '"y": [1], "y": [2]')
  (tmp_path / "bad.json").write_text(text)
  with pytest.raises(ValueError, match=r"bad\.json: .*'y': must be given only"):
    leaf.read_split([tmp_path / "bad.json"])


def test_files_without_users_are_refused(tmp_path):
  path = tmp_path / "none.json"
  path.write_text(json.dumps({"users": [], "user_data": {}}))
  with pytest.raises(ValueError, match=r"none\.json: must have users"):
    leaf.read_split([path])


@given(data=st.data())
@cases(30)
def test_a_hostile_file_is_right_or_refused(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / "hostile.json"
  good = content()
  good["users"].append("b")
  good["user_data"]["b"] = {"x": [[0.0] * 784, [1] * 784], "y": [3, 61]}
  path.write_bytes(data.draw(other_json(good)))
  found = read_or_refused(lambda: leaf.read_split([path]), f"{path}: must ")
  if found is None:
    return
  images, labels, writers = found
  said = json.loads(path.read_text())
  samples = [
    (user, *sample)
    for user in said["users"]
    for sample in zip(
      *(said["user_data"][user][name] for name in ("x", "y")), strict=True
    )
  ]
  assert writers.tolist() == [user for user, _, _ in samples]
  # As text, in which true and 1.0 are not 1.
  assert repr(labels.tolist()) == repr([y for _, _, y in samples])
  grey = [x for _, x, _ in samples]
  assert all(type(x) in (int, float) for row in grey for x in row)
  expected = np.rint(np.array(grey).reshape(-1, 28, 28, 1) * 255)
  np.testing.assert_array_equal(images, expected)
