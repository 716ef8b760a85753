"""Writes the report on runs and comparisons."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from quped_jax import paths
from quped_jax.experiment.report import page
from quped_jax.experiment.report import workdirs as workdirs_lib
from quped_jax.typing import Path


def write_report(
  workdirs: Path | Iterable[Path], output: Path | None = None
) -> pathlib.Path:
  """Writes a report on runs as one HTML file, which needs no network.

  It has a run's summary, sizes of its models, figures, a table of its clients,
  settings, and what reproduces it; several runs are also side by side. Of a
  comparison it has the table and the figures. The same files make the same
  report, byte for byte. Without matplotlib it has no figures.

  Args:
    workdirs: the work directory of a run, a sweep or a comparison, or several
      of them. A run need not be finished.
    output: the file, which is replaced. None: `report.html`, in the work
      directory if there is one, and here if there are several.

  Returns:
    The path of the file.

  Raises:
    ValueError: a folder that is no such work directory or is given twice, files
      in it that say something else, or an output that cannot be a file.
    OSError: the file cannot be written.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> quiet = qj.Display(quiet=True)
    >>> result = qj.run(settings, "results/run", display=quiet)
    >>> print(qj.write_report("results/run"))
    results/run/report.html
  """
  one = isinstance(workdirs, (str, os.PathLike))
  given: list[Any] = [workdirs] if one else list(workdirs)
  if not given:
    raise ValueError("workdirs=(): must be at least one work directory")
  if output is not None:
    path = paths.given("output", output)
    if path.is_dir() or not path.parent.is_dir():
      raise ValueError(
        f"output={str(output)!r}: must be a file in a folder that exists"
      )
    made = page.make(workdirs_lib.read(given))
  else:
    made = page.make(workdirs_lib.read(given))
    # Reports on other runs are left as they are.
    folder = given[0] if len(given) == 1 else "."
    path = paths.given("workdirs", folder) / "report.html"
  paths.replace_text(path, made)
  return path
