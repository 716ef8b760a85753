"""FEMNIST in the JSON files that LEAF's preprocessing writes.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

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
    ValueError: If a file does not have that form; the message names it.
  """
  images, labels, writers = [], [], []
  for path in files:
    try:
      content = json.loads(path.read_text())
      for user in content["users"]:
        data = content["user_data"][user]
        # Values are pixels divided by 255, to within rounding.
        pixels = np.rint(np.asarray(data["x"], np.float64) * 255)
        images.append(pixels.astype(np.uint8).reshape(-1, *_IMAGE_SHAPE))
        labels.append(np.asarray(data["y"], np.int32))
        if len(images[-1]) != len(labels[-1]):
          raise ValueError(
            f"user {user!r} has {len(images[-1])} images and "
            f"{len(labels[-1])} labels"
          )
        writers.append(np.full(len(labels[-1]), user))
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f"{path}: must be a file as LEAF writes for FEMNIST ({error!r})"
      ) from error
  return np.concatenate(images), np.concatenate(labels), np.concatenate(writers)
