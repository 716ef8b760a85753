"""Packages that may not be installed, and what is done with them."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

ABOUT_FIGURES = "figures need matplotlib: pip install 'quped_jax[plot]'"
ABOUT_FRAMES = "data frames need pandas: pip install pandas"


def _needed(package: str, about: str) -> Any:
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(about) from error


def need_matplotlib() -> None:
  """Raises an ImportError that says what to install, without matplotlib."""
  _needed("matplotlib", ABOUT_FIGURES)


def data_frame(records: Sequence[Mapping[str, Any]]) -> Any:
  """Records as a pandas data frame.

  Raises:
    ImportError: pandas is not installed.
  """
  return _needed("pandas", ABOUT_FRAMES).DataFrame(list(records))
