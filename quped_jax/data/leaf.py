"""FEMNIST in the JSON files that LEAF's preprocessing writes.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np

from quped_jax import kinds, reading

NUM_CLASSES = 62

_IMAGE_SHAPE = (28, 28, 1)


def find_files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Returns LEAF's files by split.

  Args:
    folder: Folder that holds `train/*.json` and `test/*.json`.

  Returns:
    `{"train": files, "test": files}`, or an empty dict if there are no files.
  """
  files = {
    split: sorted((folder / split).glob("*.json"))
    for split in ("train", "test")
  }
  return files if all(files.values()) else {}


def read_split(
  files: list[pathlib.Path],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Reads the files of one split.

  Args:
    files: JSON files `{"users": [...], "user_data": {user: {"x": [[784 grey
      values in 0..1, paper is 1]], "y": [...]}}}`.

  Returns:
    images `[samples, 28, 28, 1]` uint8, ink 0 and paper 255; labels `[samples]`
    int32; writers `[samples]` strings.

  Raises:
    ValueError: If a file does not have that form; the message names it, and
      what in it.
  """
  images, labels, writers = [], [], []
  for path in files:
    with reading.naming(str(path), "a file as LEAF writes for FEMNIST"):
      text = reading.read_text(path, most=None)
      # Its content is checked below, faster than value by value.
      content = _CONTENT("", reading.parse_json(text, nan=True, depth=None))
      if len(set(content["users"])) != len(content["users"]):
        raise ValueError("users: must each be given only once")
      for user in content["users"]:
        data, place = content["user_data"], f"user_data.{user}"
        if user not in data:
          raise ValueError(f"{place}: must be given")
        images.append(_images(f"{place}.x", data[user]["x"]))
        labels.append(_labels(f"{place}.y", data[user]["y"]))
        if len(images[-1]) != len(labels[-1]):
          raise ValueError(
            f"{place}: must have as many images as labels; has "
            f"{len(images[-1])} and {len(labels[-1])}"
          )
        writers.append(np.full(len(labels[-1]), user))
  if not writers:
    raise ValueError(f"{files[0]}: must have users")
  return np.concatenate(images), np.concatenate(labels), np.concatenate(writers)


_CONTENT = kinds.record(
  {
    "users": kinds.entries(kinds.text),
    "user_data": kinds.table(
      kinds.record({"x": kinds.anything, "y": kinds.anything})
    ),
  }
)


def _images(place: str, rows: Any) -> np.ndarray:
  """uint8 `[samples, 28, 28, 1]` of lists of grey values."""
  if not isinstance(rows, list):
    raise ValueError(f"{place}={reading.shown(rows)}: must be a list of images")
  size = math.prod(_IMAGE_SHAPE)

  def refusal(i):
    return ValueError(
      f"{place}[{i}]={reading.shown(rows[i])}: must be {size} grey values from "
      "0 to 1"
    )

  for i, row in enumerate(rows):
    # NumPy would take true for 1, and "1" too.
    numbers = isinstance(row, list) and {int, float}.issuperset(map(type, row))
    if not numbers or len(row) != size:
      raise refusal(i)
  try:
    grey = np.array(rows, np.float64).reshape(-1, size)
  except OverflowError as error:
    raise ValueError(f"{place}: {error}") from error
  wrong = ~((grey >= 0) & (grey <= 1)).all(axis=1)
  if wrong.any():
    raise refusal(int(np.argmax(wrong)))
  # Values are pixels divided by 255, to within rounding.
  return np.rint(grey * 255).astype(np.uint8).reshape(-1, *_IMAGE_SHAPE)


def _labels(place: str, labels: Any) -> np.ndarray:
  """int32 `[samples]`."""
  check = kinds.entries(kinds.whole(0, NUM_CLASSES - 1))
  return np.array(check(place, labels), np.int32)
