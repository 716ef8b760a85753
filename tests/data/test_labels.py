"""Labels as users have them: classes, or an error that says what to do."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.data import from_arrays


def classes(labels, **options):
  return from_arrays(np.ones((len(labels), 2)), labels, **options)


@pytest.mark.parametrize(
  "labels",
  [
    [0, 2, 1],
    np.array([0, 2, 1], np.uint64),
    np.array([[0], [2], [1]]),
    np.array([0, 2, 1], object),
    jnp.array([0, 2, 1]),
    ["0", "2", "1"],
    np.array([b"0", b"2", b"1"]),
  ],
)
def test_whole_numbers_are_classes_however_they_are_written(labels, capsys):
  made = classes(labels)
  assert made.labels.tolist() == [0, 2, 1] and made.labels.dtype == np.int32
  assert made.num_classes == 3 and made.class_names is None
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  "labels", [[0.0, 2.0, 1.0], np.array([[0.0], [2.0], [1.0]])]
)
def test_floats_are_classes_and_that_is_said_unless_it_is_meant(labels):
  with pytest.warns(
    UserWarning, match="^labels: are floats, .* 3 classes .*num_classes=3; targ"
  ):
    made = classes(labels)
  assert made.labels.tolist() == [0, 2, 1] and made.num_classes == 3
  assert classes(labels, num_classes=3).labels.tolist() == [0, 2, 1]


def test_bools_are_two_classes():
  assert classes([True, False, True]).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  "labels",
  [
    ["dog", "cat", "dog"],
    np.array(["dog", "cat", "dog"]),
    np.array([["dog"], ["cat"], ["dog"]], object),
    np.array([b"dog", b"cat", b"dog"]),
    np.array(["dog", "cat", "dog"], np.dtypes.StringDType()),
  ],
)
def test_text_is_classes_by_name_and_says_which_is_which(labels, capsys):
  made = classes(labels)
  assert made.labels.tolist() == [1, 0, 1] and made.num_classes == 2
  assert made.class_names == ("cat", "dog")
  assert capsys.readouterr().out == "labels: class 0 is 'cat', 1 is 'dog'\n"


def test_of_many_names_some_are_printed(capsys):
  names = [f"class {i:02}" for i in range(30)]
  assert classes(names).class_names == tuple(names)
  out = capsys.readouterr().out
  assert out.count("is") == 10 and out.endswith("... 30 in all\n")


def test_text_of_digits_that_numbers_are_not_written_with_is_names():
  assert classes(["01", "1", "10", "2"]).class_names == ("01", "1", "10", "2")


def test_more_classes_than_names_may_be_said():
  made = classes(["a", "b"], num_classes=4)
  assert made.num_classes == 4
  assert made.class_names == ("a", "b")


@pytest.mark.parametrize(
  ("labels", "options", "message"),
  [
    ([0.5, 1.0], {}, "labels=0.5: must be classes, .* regression; np.digit"),
    ([0.0, np.nan], {}, "labels=nan: must not be missing"),
    ([0.0, np.inf], {}, "labels=inf: "),
    (np.eye(3), {}, r"labels.shape=\(3, 3\): .* labels.argmax\(axis=1\)"),
    (np.eye(3, dtype=bool), {}, r"labels.shape=\(3, 3\): .* labels.argmax"),
    (np.full((3, 3), 1 / 3), {}, r"labels.shape=\(3, 3\): .* one class per"),
    ([["a", "b"], ["c", "d"]], {}, r"labels.shape=\(2, 2\): .* one class per"),
    ([0, 2**32], {}, "labels=4294967296: must be less than"),
    ([0, 2**32], {"num_classes": 2}, "labels=4294967296: "),
    ([0, 2**70], {}, "labels=1.18.*e.21: must be less than"),
    ([0, -1], {}, "labels=-1: must not be negative; classes count from 0"),
    ([0, 3], {"num_classes": 3}, "labels=3: must be between 0 and 2"),
    (["a", "b"], {"num_classes": 1}, "num_classes=1: must be at least 2"),
    (
      ["a", "b"],
      {"num_classes": 2**31},
      "num_classes=2147483648: must",
    ),
    (["a", 1], {}, "labels=1: must be text, as others"),
    ([None, "a"], {}, "labels=None: must not be missing"),
    (["a", "a\0", "b"], {}, r"labels='a.x00': must be text without NUL"),
    (["\ud800", "b"], {}, "labels=.*: must be text without NUL that UTF-8"),
    ([0, 0, 0], {}, "labels=0: must be of two classes or more"),
    ([None, 1], {}, "labels=None: must be real numbers"),
    ([1j, 1], {}, "labels.dtype=complex128: must be real numbers"),
    (np.array(["2020", "2021"], "M8[Y]"), {}, "labels.dtype=datetime64"),
    (np.ma.masked_equal([0, 1], 1), {}, "labels: must have no masked entries"),
  ],
)
def test_what_is_no_class_is_an_error_that_says_what_to_do(
  labels, options, message
):
  with pytest.raises(ValueError, match=f"^{message}"):
    classes(labels, **options)


def test_a_target_of_integers_is_no_classes_unless_they_are_said_to_be():
  """Such as scikit-learn's load_diabetes: 442 targets from 25 to 346."""
  targets = np.random.default_rng(0).integers(25, 346, 442)
  targets[0] = 346
  for labels in (targets, targets.astype(float)):
    with pytest.raises(
      ValueError, match=r"^labels: .* 347 .* 442 .* num_classes=347; .*digitize"
    ):
      classes(labels)
  assert classes(targets, num_classes=347).num_classes == 347
  with pytest.raises(ValueError, match="^labels: .* 442 of them for 442"):
    classes([f"id {i}" for i in range(442)])


def test_classes_without_samples_are_warned_of():
  with pytest.warns(UserWarning) as caught:
    made = classes([1, 2, 3])
  assert made.num_classes == 4
  assert re.match(
    r"labels: are from 1 to 3, which makes 4 classes, of which 1 .*\(0\)\. .*"
    r"num_classes=4; labels - 1 counts from 0",
    str(caught[0].message),
  )
  with pytest.warns(UserWarning, match=r"10 classes, of which 7 .*\(1, 2, 3, "):
    classes([0, 9, 5])
  assert classes([1, 2, 3], num_classes=4).num_classes == 4
