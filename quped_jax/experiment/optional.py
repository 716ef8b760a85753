"""Packages that may not be installed, and what is done with them."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

ABOUT_FIGURES = "figures need matplotlib: pip install 'quped_jax[plot]'"
ABOUT_FRAMES = "data frames need pandas: pip install pandas"


def can_draw() -> bool:
  """Whether matplotlib is installed, which is not imported."""
  return importlib.util.find_spec("matplotlib") is not None


def need_matplotlib() -> None:
  """Raises an ImportError that says what to install, without matplotlib."""
  if not can_draw():
    raise ImportError(ABOUT_FIGURES)


def data_frame(records: Sequence[Mapping[str, Any]]) -> Any:
  """Records as a pandas data frame.

  Raises:
    ImportError: pandas is not installed.
  """
  try:
    pandas = importlib.import_module("pandas")
  except ImportError as error:
    raise ImportError(ABOUT_FRAMES) from error
  return pandas.DataFrame(list(records))
