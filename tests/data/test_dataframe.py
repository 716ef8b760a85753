"""Tables of pandas, polars and pyarrow."""

import datetime
import warnings
from typing import Any

import numpy as np
import pytest

import quped_jax as qj

SAMPLES = 24
RNG = np.random.default_rng(0)
PLAIN: dict[str, Any] = {
  "age": RNG.integers(18, 90, SAMPLES),
  "income": RNG.normal(50_000, 9_000, SAMPLES),
  "smokes": RNG.random(SAMPLES) < 0.4,
  "state": ["ill", "well", "well"] * 8,
  "hospital": [f"h{i % 3}" for i in range(SAMPLES)],
}


@pytest.fixture(params=["pandas", "polars", "pyarrow"])
def table(request):
  """Makes a table of columns."""
  library = pytest.importorskip(
    request.param, reason=f"{request.param} is not installed (extra [test])"
  )
  makers = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}
  return getattr(library, makers[request.param])


def test_columns_of_numbers_are_the_inputs(table, capsys):
  dataset = qj.from_dataframe(
    table(PLAIN), label="state", client="hospital", standardize=True
  )
  expected = np.stack(
    [PLAIN[x].astype(float) for x in ("age", "income", "smokes")], axis=1
  )
  np.testing.assert_allclose(dataset.inputs, expected, rtol=1e-6)
  np.testing.assert_allclose(dataset.mean, expected.mean(axis=0))
  assert dataset.labels.tolist() == [0, 1, 1] * 8
  assert dataset.class_names == ("ill", "well")
  assert "class 0 is 'ill'" in capsys.readouterr().out
  federation = qj.make_federation(dataset)
  assert sorted(federation.groups or ()) == [("h0",), ("h1",), ("h2",)]


def test_columns_are_chosen_and_in_that_order(table):
  columns = {**PLAIN, "test": [False, True] * 12, "class": [0, 1] * 12}
  dataset = qj.from_dataframe(
    table(columns),
    "class",
    features=["smokes", "age"],
    is_test="test",
    std=1.0,
  )
  np.testing.assert_array_equal(dataset.inputs[:, 1], PLAIN["age"])
  assert (
    dataset.is_test is not None
    and dataset.is_test.tolist() == (columns["test"])
  )
  assert dataset.groups is None and dataset.inputs.shape == (SAMPLES, 2)


def test_several_columns_may_be_values(table):
  columns = {
    "x": RNG.normal(size=8),
    "a": np.arange(8) / 8,
    "b": np.arange(8)[::-1] / 4,
  }
  dataset = qj.from_dataframe(table(columns), ["b", "a"], targets="values")
  np.testing.assert_allclose(dataset.labels[:, 1], columns["a"])
  one = qj.from_dataframe(table(columns), "a", targets="values")
  assert one.labels.shape == (8, 1) and one.inputs.shape == (8, 2)


@pytest.mark.parametrize(
  ("column", "message"),
  [
    (["red", "blue"] * 12, "must be numbers .*'red', 'blue'.*get_dummies"),
    (["1.0", "2e3"] * 12, "must be numbers .*'1.0'.*pandas.to_numeric"),
    (["1.0", "red"] * 12, "must be numbers .*'1.0', 'red'.*get_dummies"),
    (["1.0", "nan"] * 12, "must be numbers .*'1.0', 'nan'.*get_dummies"),
    ([1.0, None] * 12, "must have no missing values; 12 of 24 are"),
    ([True, None] * 12, "must have no missing values; 12 of 24 are"),
    (["a", None] * 12, "must have no missing values; 12 of 24 are"),
    ([1.0, float("inf")] * 12, "must be finite"),
    ([datetime.datetime(2020, 1, 2)] * 24, "must be numbers .*datetime64"),
  ],
)
def test_what_is_no_number_is_named_by_its_column(table, column, message):
  with pytest.raises(ValueError, match=rf"^df\['new'\].*: {message}"):
    qj.from_dataframe(
      table({**PLAIN, "new": column}), "state", client="hospital"
    )


def test_missing_labels_and_clients_are_named_too(table):
  holes = {**PLAIN, "state": ["ill", None, "well"] * 8}
  with pytest.raises(ValueError, match=r"^df\['state'\]: must have no missing"):
    qj.from_dataframe(table(holes), "state", client="hospital")
  holes = {**PLAIN, "hospital": [*PLAIN["hospital"][1:], None]}
  with pytest.raises(ValueError, match=r"^df\['hospital'\]: .*; 1 of 24 are"):
    qj.from_dataframe(table(holes), "state", client="hospital")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"label": "status"}, "label='status': must be a column, one of age, in"),
    ({"label": "state", "client": "h"}, "client='h': must be a column"),
    ({"label": "state", "features": ["Age"]}, "features='Age': must be a col"),
    ({"label": "state", "features": []}, "features: must be one column"),
    ({"label": "state", "is_test": 3}, "is_test=3: must be a column"),
    ({"label": 3}, "label=3: must be a column, one of age"),
    ({"label": None}, "label=None: must be a column, one of age"),
    ({"label": []}, "label: must be one column at least"),
    ({"label": "state", "features": "age"}, "features='age': must be a list"),
    ({"label": "state", "features": 3}, "features=3: must be a list of col"),
  ],
)
def test_columns_that_are_not_there_are_named(table, options, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    qj.from_dataframe(table(PLAIN), **options)


@pytest.mark.parametrize("column", ["smokes", "tests", "age"])
def test_a_feature_is_no_label_and_is_there_once(table, column):
  columns = {**PLAIN, "tests": [False, True] * 12}
  with pytest.raises(
    ValueError, match=f"^features='{column}': must be there o"
  ):
    qj.from_dataframe(
      table(columns), "smokes", features=["age", column], is_test="tests"
    )


def test_columns_of_pandas_may_have_numbers_as_names():
  pandas = pytest.importorskip(
    "pandas", reason="pandas is not installed (extra [test])"
  )
  frame: Any = pandas.DataFrame(np.eye(4))
  dataset = qj.from_dataframe(frame, 3, std=1.0, num_classes=2)  # type: ignore
  assert dataset.labels.tolist() == [0, 0, 0, 1]
  assert dataset.inputs.shape == (4, 3)


def test_constant_columns_are_named(table):
  with pytest.warns(UserWarning, match="1 of 4 features are the same .*: same"):
    qj.from_dataframe(
      table({**PLAIN, "same": [3] * 24}), "state", "hospital", standardize=True
    )


def test_what_is_no_table_is_named():
  for wrong in ([[1, 2]], np.eye(3), "table.csv"):
    with pytest.raises(ValueError, match="^df: must be a table of pandas, pol"):
      qj.from_dataframe(wrong, "label")


def test_categories_of_pandas_are_no_numbers():
  pandas = pytest.importorskip(
    "pandas", reason="pandas is not installed (extra [test])"
  )
  frame = pandas.DataFrame({**PLAIN, "ward": [1, 2, 3] * 8})
  frame["ward"] = frame["ward"].astype("category")
  with pytest.raises(ValueError, match=r"^df\['ward'\]: must be numbers or bo"):
    qj.from_dataframe(frame, "state", "hospital")
  twice = pandas.DataFrame(np.eye(4), columns=["a", "a", "b", "y"])
  with pytest.raises(ValueError, match=r"^df\['a'\]: must be one column"):
    qj.from_dataframe(twice, "y", num_classes=2)


def test_categories_of_polars_are_no_numbers_and_lazy_tables_no_tables():
  polars = pytest.importorskip(
    "polars", reason="polars is not installed (extra [test])"
  )
  frame = polars.DataFrame(PLAIN).with_columns(
    polars.col("hospital").cast(polars.Categorical).alias("ward")
  )
  with pytest.raises(ValueError, match=r"^df\['ward'\]: must be numbers or bo"):
    qj.from_dataframe(frame, "state", "hospital")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises(ValueError, match="^df: must be a table.* collect()"):
      qj.from_dataframe(frame.lazy(), "state")


def test_nulls_of_pyarrows_dictionaries_are_missing():
  pyarrow = pytest.importorskip(
    "pyarrow", reason="pyarrow is not installed (extra [test])"
  )
  coded = pyarrow.array(["a", None, "b"] * 8).dictionary_encode()
  table = pyarrow.table({"x": np.arange(24) / 24, "y": [0, 1] * 12, "c": coded})
  for label, client in (("c", "y"), ("y", "c")):
    with pytest.raises(ValueError, match=r"^df\['c'\]: .* missing .*; 8 of 24"):
      qj.from_dataframe(table, label, client)


def test_columns_of_lists_are_not_missing_but_no_numbers():
  polars = pytest.importorskip(
    "polars", reason="polars is not installed (extra [test])"
  )
  of_lists = {"new": [[1, 2], [3, 4, 5]] * 12}
  with pytest.raises(
    ValueError, match=r"^df\['new'\]=array\(\[1, 2\]\): must b"
  ):
    qj.from_dataframe(
      polars.DataFrame({**PLAIN, **of_lists}), "state", "hospital"
    )
  of_arrays = {"new": np.ones((24, 2))}
  with pytest.raises(
    ValueError, match=r"^df\['new'\]: must be one entry for e"
  ):
    qj.from_dataframe(
      polars.DataFrame({**PLAIN, **of_arrays}), "state", "hospital"
    )
