"""Tables that users give: a column of labels, one of clients, and features.

Of pandas, polars or pyarrow, of which none is imported: a table is what has
names of columns, and columns that are arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays
from quped_jax.data.dataset import Dataset, from_arrays

# Types of columns, by how libraries' names of them begin, of which the numbers
# stand for something else.
_CODED = ("cat", "enum", "dictionary")
# How many columns, and how many entries, a message lists.
_LISTED, _SHOWN = 10, 3


def from_dataframe(
  df: Any,
  label: str | Sequence[str],
  client: str | None = None,
  *,
  features: Sequence[str] | None = None,
  targets: str = "classes",
  name: str = "dataframe",
  num_classes: int | None = None,
  is_test: str | None = None,
  mean: np.ndarray | float | None = None,
  std: np.ndarray | float | None = None,
  standardize: bool = False,
) -> Dataset:
  """Makes a dataset from a table of pandas, polars or pyarrow.

  Features are columns of numbers and booleans. Text, categories and dates are
  refused, and so are missing values: what they should count as is for you to
  say. What is odd about the data is said as by `from_arrays`.

  Args:
    df: The table.
    label: The column of labels, numbers of classes or text; with other
      `targets` one or several columns.
    client: The column that says whose a sample is, ids of any type;
      `make_federation` makes a client of each. None: nobody's.
    features: The columns that networks see, in this order. None: all others.
    targets: What labels are, see `from_arrays`.
    name: What error messages call the dataset.
    num_classes: Number of classes; None: the largest label plus one.
    is_test: The column that says which samples are for testing. None: each
      client's are split.
    mean: Subtracted from the features, `[features]` or a number.
    std: What they are then divided by, likewise.
    standardize: Whether both are those of each feature, over the training
      samples of all clients.

  Returns:
    The dataset, whose inputs are `[samples, features]`.

  Raises:
    ValueError: If the columns do not make a dataset; the message names the
      column and what to do.

  Examples:
    >>> import pandas as pd
    >>> df = pd.DataFrame(
    ...   {
    ...     "age": [34, 51, 47, 29, 62, 45, 38, 56],
    ...     "ill": [False, True] * 4,
    ...     "hospital": ["north"] * 4 + ["south"] * 4,
    ...   }
    ... )
    >>> data = qj.from_dataframe(df, "ill", "hospital", standardize=True)
    >>> data.inputs.shape, data.num_classes
    ((8, 1), 2)
    >>> qj.make_federation(data).num_clients
    2
  """
  columns = _columns(df)
  one = isinstance(label, str) or not isinstance(label, Iterable)
  labels = _named("label", [label] if one else label, columns)
  for field, column in (("client", client), ("is_test", is_test)):
    _named(field, [column], [*columns, None])
  if features is None:
    features = [x for x in columns if x not in [*labels, client, is_test]]
  else:
    features = _named("features", features, columns)
    for column in features:
      if column in [*labels, is_test] or features.count(column) > 1:
        raise ValueError(
          f"features={checks.shown(column)}: must be there once, and be no "
          "label nor is_test"
        )
  if not features:
    raise ValueError("features: must be one column at least")
  found = [_present(df, x) for x in labels]
  return from_arrays(
    np.stack([_numbers(df, x) for x in features], axis=1),
    found[0] if one else np.stack(found, axis=1),
    targets=targets,
    name=name,
    num_classes=num_classes,
    is_test=None if is_test is None else _present(df, is_test),
    client=None if client is None else _present(df, client),
    mean=mean,
    std=std,
    standardize=standardize,
    feature_names=[str(x) for x in features],
  )


def _named(field: str, given: Any, columns: Sequence[Any]) -> list[Any]:
  """Columns that a user names, all of which there are."""
  if isinstance(given, str) or not isinstance(given, Iterable):
    raise ValueError(
      f"{field}={checks.shown(given)}: must be a list of columns"
    )
  names = list(given)
  for name in names:
    if name not in columns:
      there = [str(x) for x in columns if x is not None]
      raise ValueError(
        f"{field}={checks.shown(name)}: must be a column, one of {_list(there)}"
      )
  if not names:
    raise ValueError(f"{field}: must be one column at least")
  return names


def _columns(df: Any) -> list[Any]:
  """The names of the columns."""
  # A table of pyarrow has its columns themselves under the other name.
  names = getattr(df, "column_names", None)
  lazy = hasattr(df, "collect")
  names = getattr(df, "columns", None) if names is None and not lazy else names
  if names is None or not hasattr(df, "__getitem__"):
    raise ValueError(
      f"df: must be a table of pandas, polars or pyarrow; got "
      f"{type(df).__name__}"
      + (", of which collect() makes one" if lazy else "")
    )
  return list(names)


def _present(df: Any, column: str) -> np.ndarray:
  """A column as an array, `[samples]`, of which no entry is missing."""
  field, values = f"df[{column!r}]", df[column]
  if getattr(values, "ndim", 1) != 1:
    raise ValueError(f"{field}: must be one column; there are several")
  array = arrays.as_array(field, values)
  if array.ndim != 1:
    raise ValueError(
      f"{field}: must be one entry for each sample; got {list(array.shape)}. "
      "Make several columns of it, or leave it out by `features`"
    )
  missing = _missing(values, array)
  if missing:
    raise ValueError(
      f"{field}: must have no missing values; {missing} of {len(array)} are. "
      "Leave these rows out (dropna in pandas, drop_nulls in polars), or fill "
      "them (fillna, fill_null)"
    )
  return array


def _missing(values: Any, array: np.ndarray) -> int:
  """How many entries of a column are missing; `array` is what NumPy has."""
  # NumPy is given some other value for each null in a dictionary of pyarrow.
  nulls: Any = getattr(values, "null_count", 0)
  if nulls := nulls() if callable(nulls) else nulls:  # As in polars.
    return nulls
  if array.dtype.kind == "O":
    return sum(map(arrays.is_missing, array.tolist()))
  return int(np.count_nonzero(array != array))


def _numbers(df: Any, column: str) -> np.ndarray:
  """A column as an array of numbers or booleans, `[samples]`."""
  array, field = _present(df, column), f"df[{column!r}]"
  values = df[column]
  kind = str(getattr(values, "dtype", getattr(values, "type", ""))).lower()
  coded, texts = kind.startswith(_CODED), arrays.texts(field, array)
  if not coded and texts is not None and _all_numbers(texts):
    raise ValueError(
      f"{field}: must be numbers or booleans; got text of numbers, such as "
      f"{str(texts[0])!r}. Make numbers of it "
      f"(pandas.to_numeric(df[{column!r}]), or df[{column!r}].cast(float) in "
      "polars)"
    )
  if coded or texts is not None:
    examples = list(dict.fromkeys(map(repr, array.tolist()[:1000])))
    raise ValueError(
      f"{field}: must be numbers or booleans; got entries such as "
      f"{', '.join(examples[:_SHOWN])}. Make a column of 0 and 1 of each value "
      f"(pandas.get_dummies(df, columns=[{column!r}]), or "
      f"df.to_dummies({column!r}) in polars), or leave the column out by "
      "`features`"
    )
  if array.dtype.kind in "mM":
    raise ValueError(
      f"{field}: must be numbers or booleans; got {array.dtype}. Make numbers "
      "of them, such as days since a certain date, or leave the column out by "
      "`features`"
    )
  array = arrays.real_array(field, array)
  if array.dtype.kind == "f" and np.isinf(array).any():
    raise ValueError(f"{field}={array[np.isinf(array)][0]}: must be finite")
  return array


def _all_numbers(texts: np.ndarray) -> bool:
  """Whether each text is that of a finite number."""
  try:
    return bool(np.isfinite(texts.astype(float)).all())
  except ValueError:
    return False


def _list(found: Sequence[str]) -> str:
  more = ", ..." if len(found) > _LISTED else ""
  return ", ".join(found[:_LISTED]) + more
