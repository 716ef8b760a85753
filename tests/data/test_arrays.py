"""Arrays as users have them, of whatever library: right, or named."""

import contextlib
import os
import re
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from quped_jax.data import Dataset, Partition, arrays, from_arrays, partition
from quped_jax.data.federation import make_federation


class Tensor:
  """What a tensor of PyTorch looks like from outside."""

  def __init__(self, values, *, gradient=False, device="cpu", half=False):
    self.values = np.asarray(values)
    self.gradient, self.device, self.half = gradient, device, half

  def detach(self):
    return Tensor(self.values, device=self.device, half=self.half)

  def cpu(self):
    return Tensor(self.values, gradient=self.gradient, half=self.half)

  def float(self):
    return Tensor(self.values.astype(np.float32))

  def __array__(self, dtype=None, copy=None):
    if self.gradient:
      raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
    if self.device != "cpu":
      raise TypeError("can't convert cuda:0 device type tensor to numpy.")
    if self.half:
      raise TypeError("Got unsupported ScalarType BFloat16")
    return self.values


class Frame:
  """What a DataFrame of pandas looks like from outside."""

  def __init__(self, rows):
    self.rows = rows

  def __array__(self, dtype=None, copy=None):
    return np.array(self.rows, object)


class Sparse:
  def toarray(self):
    raise AssertionError("it may not fit into memory")


LONG = os.environ.get("QUPED_LONG_TESTS") == "1"
VALUES = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
  "value",
  [
    VALUES,
    np.array(VALUES, np.float16),
    np.array(VALUES, np.longdouble),
    np.array(VALUES, object),
    np.ma.array(VALUES),
    jnp.array(VALUES),
    jnp.array(VALUES, jnp.bfloat16),
    jnp.array(VALUES, jnp.int4),
    list(jnp.array(VALUES, jnp.bfloat16)),
    Tensor(VALUES),
    Tensor(VALUES, gradient=True),
    Tensor(VALUES, gradient=True, device="cuda"),
    Tensor(VALUES, gradient=True, device="cuda", half=True),
    [Tensor(row, gradient=True) for row in VALUES],
    Frame([[1, 2.0], [np.float32(3), np.int8(4)]]),
    Frame([[True, 2.0], [3, 4]]),
  ],
)
def test_real_numbers_of_any_library_are_as_they_were(value):
  array = arrays.real_array("x", value)
  assert type(array) is np.ndarray and array.dtype.kind in "iuf"
  np.testing.assert_array_equal(array, VALUES)


MASKED = np.ma.masked_equal(VALUES, 2.0)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (MASKED, "x: must have no masked entries; 1 of 4 are. .*filled"),
    (list(MASKED), "x: must have no masked entries; 1 of 4 are"),
    ([[1.0, 2.0], [3.0]], "x: must be an array, or lists of the same length"),
    (np.array([[1.0], [2.0, 3.0]], object), r"x=\[1.0\]: .* the same length"),
    (Frame([[1.0, "a"]]), "x='a': must be real numbers"),
    (Frame([[1.0, None]]), "x=None: must be real numbers"),
    ([[1, "a"]], "x='a': must be real numbers"),
    ([[10**400]], "x: must be numbers that float64 holds"),
    (np.zeros((2, 2), complex), "x.dtype=complex128: must be real numbers"),
    (np.zeros(2, "M8[s]"), r"x.dtype=datetime64\[s\]: must be real"),
    (np.zeros(2, "m8[s]"), r"x.dtype=timedelta64\[s\]: must be real"),
    (np.zeros(2, [("a", int)]), r"x.dtype=\[\('a', .*\)\]: must be real"),
    (np.array(["1.0"]), "x.dtype=<U3: must be real numbers"),
    (Sparse(), r"x: must be a dense array; got Sparse, whose toarray\(\)"),
    (Tensor(["a"]), "x.dtype=<U1: must be real numbers"),
    (None, "x=None: must be real numbers"),
    ({"a": 1}, "x={'a': 1}: must be real numbers"),
    ((i for i in range(2)), "x=<generator .*>: must be real numbers"),
    (np.ma.masked, "x: must have no masked entries"),
  ],
)
def test_anything_else_is_named(value, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    arrays.real_array("x", value)


def test_mapped_memory_is_not_read(tmp_path):
  np.save(tmp_path / "x.npy", np.eye(3))
  mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
  array = arrays.real_array("x", mapped)
  assert type(array) is np.ndarray and np.shares_memory(array, mapped)


def test_whole_numbers_may_be_written_as_bools_and_floats():
  for value in ([True, False], [1.0, 0.0], np.array([1, 0], object)):
    array = arrays.whole_array("x", value)
    assert array.dtype.kind == "i" and array.tolist() == [1, 0]
  for value, shown in (([0.5], "0.5"), ([np.nan], "nan"), ([1e16], "1e.16")):
    with pytest.raises(ValueError, match=f"^x={shown}: must be whole numbers"):
      arrays.whole_array("x", value)


def test_bools_may_be_written_as_0_and_1():
  for value in ([True, False], [1, 0], [1.0, 0.0], [[1], [0]]):
    made = arrays.bools("x", value)
    assert made.dtype == bool and made.tolist() == [True, False]


@pytest.mark.parametrize(
  ("ids", "numbers", "names"),
  [
    ([7, 3, 7], [7, 3, 7], None),
    (np.array([[7], [3], [7]], np.uint8), [7, 3, 7], None),
    ([-7, 10**12, -7], [0, 1, 0], ("-7", "1000000000000")),
    (["b", "a", "b"], [1, 0, 1], ("a", "b")),
    ([b"b", b"a", b"b"], [1, 0, 1], ("a", "b")),
    ([1.0, 2.5, 1.0], [0, 1, 0], ("1", "2.5")),
    ([True, False, True], [1, 0, 1], ("False", "True")),
    ([1, "a", 1], [0, 1, 0], ("1", "a")),
    (np.array([3, 1, 3], object), [1, 0, 1], ("1", "3")),
    (
      np.array(["2021-01-02", "2020-01-01", "2021-01-02"], "M8[D]"),
      [1, 0, 1],
      ("2020-01-01", "2021-01-02"),
    ),
  ],
)
def test_ids_of_any_type_are_numbers_with_names(ids, numbers, names):
  made, given_names = arrays.names("groups", ids)
  assert made.dtype == np.int32 and made.tolist() == numbers
  assert given_names == names


@pytest.mark.parametrize(
  ("ids", "message"),
  [
    ([1.0, np.nan], "groups: must have no missing entries"),
    (np.array(["2020", "NaT"], "M8[Y]"), "groups: must have no missing"),
    ([None, "a"], "groups=None: must not be missing"),
    (np.array([np.nan, "a"], object), "groups=nan: must not be missing"),
    (["a", "a\0"], r"groups='a.x00': must be text without NUL"),
    (["\ud800", "b"], "groups=.*: must be text without NUL that UTF-8"),
    (["\ud800", 1], "groups=.*: must be text without NUL that UTF-8"),
    ([1, "1"], "groups='1': must have a name of its own; 1 has the same"),
    (np.ma.masked_equal([0, 1], 1), "groups: must have no masked entries"),
  ],
)
def test_ids_that_are_missing_or_alike_are_named(ids, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    arrays.names("groups", ids)


# A field, and what is wrong with it.
NAMED = re.compile(
  r"^(inputs|labels|is_test|groups|mean|std|num_classes|name|clients|partition"
  r"|train_fraction|min_size|alpha)[=.:]"
)
LEAVES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-3, 3),
  st.sampled_from([2**31, 2**63, 2**64, 10**400, -(2**63)]),
  st.floats(width=64),
  st.text(max_size=2),
  st.binary(max_size=2),
  st.complex_numbers(),
  st.sampled_from([np.ma.masked, np.float16(1), np.datetime64("NaT"), [], {}]),
)
NESTED = st.recursive(LEAVES, lambda x: st.lists(x, max_size=4), max_leaves=8)
DTYPES = st.one_of(
  npst.scalar_dtypes(),
  npst.byte_string_dtypes(max_len=3),
  npst.unicode_string_dtypes(max_len=3),
  npst.array_dtypes(max_size=2),
  st.sampled_from([np.dtype(x) for x in (jnp.bfloat16, jnp.int4, object)]),
)


@st.composite
def odd_arrays(draw, samples):
  """Anything: most have the right number of entries."""
  if draw(st.booleans()):
    return draw(NESTED)
  sizes = st.just(samples) | st.integers(0, 3)
  shape = draw(st.tuples(sizes) | st.tuples(sizes, st.integers(0, 2)))
  # Not text of swapped bytes, which would not be of characters.
  dtype = draw(DTYPES.filter(lambda x: x.kind != "U" or x.isnative))
  with np.errstate(all="ignore"):
    bits = draw(st.binary(min_size=16, max_size=16)) * 64
    count = int(np.prod(shape))
    if dtype.kind == "O":
      values = [draw(LEAVES) for _ in range(count)]
      array = np.empty(count, object)
      array[:] = values
    else:
      size = count * max(dtype.itemsize, 1)
      array = np.frombuffer(bits[:size].ljust(size, b"\0"), np.uint8)
      if dtype.kind == "U":  # Of characters that there are.
        array = array.view("<u4") % 128
      array = (
        array.view(dtype.base)[:count]
        if dtype.itemsize and dtype.base.kind not in "TO"
        else np.zeros(count, dtype.base)
      )
  array = np.resize(array, shape)
  if draw(st.integers(0, 5)) == 0:
    with np.errstate(all="ignore"):  # Of the value that would fill it.
      return np.ma.array(array, mask=draw(st.booleans()))
  return array


@pytest.mark.slow
@given(st.data())
@settings(deadline=None, max_examples=20_000 if LONG else 50)
def test_anything_at_all_makes_a_dataset_or_is_refused_by_name(data):
  samples = data.draw(st.integers(1, 5))
  given_arrays = {
    "inputs": np.ones((samples, 2)),
    "labels": np.arange(samples) % 2,
    "num_classes": 2,
  }
  fields = ["inputs", "labels", "is_test", "groups", "mean", "std"]
  for field in data.draw(st.lists(st.sampled_from(fields), max_size=3)):
    given_arrays[field] = data.draw(odd_arrays(samples))
  for field in data.draw(
    st.lists(st.sampled_from(["num_classes", "name"]), max_size=1)
  ):
    given_arrays[field] = data.draw(LEAVES)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    with contextlib.redirect_stdout(None):
      try:
        dataset = from_arrays(**given_arrays)
      except ValueError as error:
        assert NAMED.match(str(error)), error
        return
  check(dataset)


ARGUMENTS = st.one_of(
  LEAVES,
  st.sampled_from([1, 2, 0.5, np.int8(2), np.float32(0.5), "iid", "natural"]),
  st.sampled_from(["dirichlet", "shards", "pathological"]),
)
OPTIONS = (
  *("scheme", "num_clients", "seed", "classes_per_client", "alpha", "min_size"),
  *("shards_per_client", "groups_per_client", "train_fraction"),
  *("validation_fraction", "exclude", "dataset"),
)


@given(st.dictionaries(st.sampled_from(OPTIONS), ARGUMENTS, max_size=4))
@settings(deadline=None, max_examples=20_000 if LONG else 50)
def test_any_arguments_of_a_partition_divide_or_are_refused_by_name(changes):
  dataset = from_arrays(
    np.ones((12, 1)), np.arange(12) % 2, groups=np.arange(12) // 3
  )
  arguments = {
    "dataset": dataset,
    "scheme": "iid",
    "num_clients": 2,
    "classes_per_client": 1,
    "alpha": 1.0,
    "shards_per_client": 1,
    "groups_per_client": 1,
  }
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    try:
      parts = partition(**arguments | changes)
    except ValueError as error:
      names = ("clients=", *(f"{x}=" for x in OPTIONS), "partition=")
      assert str(error).startswith((*names, "dataset:", "exclude:")), error
      return
  make_federation(dataset, parts)


@given(st.data())
@settings(deadline=None, max_examples=20_000 if LONG else 50)
def test_any_rows_make_a_federation_or_are_refused_by_name(data):
  dataset = from_arrays(np.ones((4, 1)), [0, 1, 0, 1])
  good = np.arange(2)
  parts = {
    name: data.draw(st.just((good,)) | odd_arrays(2) | st.tuples(odd_arrays(2)))
    for name in ("train", "validation", "test")
  }
  try:
    federation = make_federation(dataset, Partition(**parts))
  except ValueError as error:
    assert str(error).startswith("partition"), error
    return
  rows = np.asarray(federation.train.rows)
  assert rows.dtype == np.int32 and rows.min() >= 0 and rows.max() < 4


def check(dataset: Dataset):
  """What holds of every dataset, and of what it is divided into."""
  assert np.isfinite(dataset.inputs).all() and dataset.labels.min() >= 0
  normalised = (dataset.inputs - np.float32(dataset.mean)) / np.float32(
    dataset.std
  )
  assert np.isfinite(normalised).all()
  try:
    parts = partition(dataset, "iid", 1)
  except ValueError as error:
    assert NAMED.match(str(error)), error
    return
  federation = make_federation(dataset, parts)
  batch = federation.client(0).batch(jnp.zeros(1, jnp.int32))
  assert np.isfinite(batch.inputs).all()
