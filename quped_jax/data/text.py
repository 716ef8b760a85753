"""Text as a dataset: predict the next character; each source is a group."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from quped_jax import checks, paths
from quped_jax.data.dataset import Dataset

# Printable ASCII, then the newline, then anything else.
_FIRST, _LAST = 32, 126
VOCABULARY = _LAST - _FIRST + 3
_NEWLINE, _OTHER = VOCABULARY - 2, VOCABULARY - 1


def encode(text: str) -> np.ndarray:
  """Characters as numbers below `VOCABULARY`, uint8 `[len(text)]`."""
  codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  printable = (codes >= _FIRST) & (codes <= _LAST)
  rest = np.where(codes == ord("\n"), _NEWLINE, _OTHER)
  return np.where(printable, codes - _FIRST, rest).astype(np.uint8)


def next_characters(
  texts: Mapping[str, str],
  *,
  name: str = "text",
  context: int = 32,
  stride: int = 5,
  test_fraction: float = 0.2,
) -> Dataset:
  """Makes samples of successive characters, labelled with the one that follows.

  The end of each text is its test part, and no training sample reaches into
  it.

  Args:
    texts: by source; each source is a group of the dataset.
    name: of the dataset.
    context: how many characters a sample shows.
    stride: how many characters after one sample the next one begins.
    test_fraction: of each text.

  Returns:
    A dataset with inputs uint8 `[samples, context]` and `VOCABULARY` classes.
    Sources too short for a training and a test sample are left out.

  Raises:
    ValueError: an argument out of range, or no text that is long enough.
  """
  context = checks.whole("context", context, 1)
  stride = checks.whole("stride", stride, 1)
  test_fraction = checks.number("test_fraction", test_fraction)
  if not 0 < test_fraction < 1:
    raise ValueError(f"test_fraction={test_fraction}: must be in (0, 1)")
  if not isinstance(texts, Mapping) or not all(
    isinstance(part, str) for entry in texts.items() for part in entry
  ):
    raise ValueError(
      f"texts={checks.shown(texts)}: must map names of sources to their text"
    )
  windows, is_test, groups, names = [], [], [], []
  for source in sorted(texts):
    codes = encode(texts[source])
    cut = int(len(codes) * (1 - test_fraction))
    parts = [_windows(part, context, stride) for part in np.split(codes, [cut])]
    if not all(len(part) for part in parts):
      continue
    group = len(names)
    names.append(source)
    windows += parts
    is_test += [np.full(len(p), i == 1) for i, p in enumerate(parts)]
    groups += [np.full(len(p), group, np.int32) for p in parts]
  if not windows:
    raise ValueError(
      f"texts: must hold one of more than {context} characters in both of its "
      f"parts; got {len(texts)} of at most "
      f"{max(map(len, texts.values()), default=0)}"
    )
  table = np.concatenate(windows)
  return Dataset(
    name=name,
    inputs=np.ascontiguousarray(table[:, :-1]),
    labels=table[:, -1].astype(np.int32),
    num_classes=VOCABULARY,
    is_test=np.concatenate(is_test),
    groups=np.concatenate(groups),
    group_names=tuple(names),
  )


def _windows(codes: np.ndarray, context: int, stride: int) -> np.ndarray:
  """uint8 `[samples, context + 1]`: contexts, each with the next character."""
  if len(codes) <= context:
    return np.zeros((0, context + 1), np.uint8)
  return np.lib.stride_tricks.sliding_window_view(codes, context + 1)[::stride]


def own_source(folder: pathlib.Path | None = None) -> dict[str, str]:
  """The text of this package's own files, by name.

  Args:
    folder: one of other Python files; None for this package.
  """
  if folder is None:
    folder = pathlib.Path(__file__).parents[1]
  folder = paths.given("folder", folder)
  return {
    path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(folder.rglob("*.py"))
  }
