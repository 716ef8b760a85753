"""All figures of a run: drawn when it ends, or later from what it left.

Only what draws needs matplotlib, and imports it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quped_jax.data.federation import Federation, Pool
from quped_jax.experiment import optional
from quped_jax.experiment.figures import run_data
from quped_jax.experiment.figures.partition import plot_partition
from quped_jax.experiment.figures.run_data import Left, RunData

if TYPE_CHECKING:
  from quped_jax.experiment.figures.style import Figure

# In the workdir.
_FOLDER = "figures"
_OWN = (
  "*_over_rounds.*",
  "*_by_client.*",
  "levels.*",
  "bytes.*",
  "partition.*",
)


def plot_run(source: Left | str | os.PathLike) -> dict[str, Figure]:
  """Draws the figures of a run.

  A notebook shows each of them by itself: `qj.plot_run(result)["levels"]`.

  Args:
    source: a `Result`, or the workdir of a finished run.

  Returns:
    {name: matplotlib Figure}. `accuracy_over_rounds` has each variant of the
    clients' models, with a band over clients; `accuracy_by_client` each
    client's accuracy against its precision and its training samples;
    `levels` the weights of a few tensors of one client and their levels, if it
    is quantized; `bytes` what clients receive and send, if they do. Where the
    score is another one, it takes the place of accuracy. The partition, which a
    run draws too, is drawn by `plot_partition`.

  Raises:
    ImportError: matplotlib is not installed.
    ValueError: a workdir without a finished run.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> result = qj.run(settings, display=qj.Display(quiet=True))
    >>> sorted(qj.plot_run(result))
    ['accuracy_by_client', 'accuracy_over_rounds']
  """
  optional.need_matplotlib()
  given: Any = source
  is_result = hasattr(source, "figure_records")
  return _figures(
    run_data.of_result(given) if is_result else run_data.read(given)
  )


def draw(workdir: str | os.PathLike) -> list[pathlib.Path]:
  """Writes the figures of a finished run into its workdir's folder `figures`.

  Args:
    workdir: of the run.

  Returns:
    The files that were written.

  Raises:
    ImportError: matplotlib is not installed.
    OSError: they cannot be written.
    ValueError: a workdir without a finished run.
  """
  optional.need_matplotlib()
  return _write(run_data.read(workdir), pathlib.Path(workdir))


def clear(workdir: str | os.PathLike) -> None:
  """Deletes the figures that an earlier run left, and no other file."""
  folder = pathlib.Path(workdir) / _FOLDER
  for pattern in _OWN:
    for path in folder.glob(pattern):
      path.unlink()
  with contextlib.suppress(OSError):  # There is none, or it has other files.
    folder.rmdir()


def leave(
  result: Left,
  workdir: str | os.PathLike,
  say: Callable[[str], None],
  federation: Federation | None = None,
) -> None:
  """Writes the figures of a run that ends; a failure is only a warning.

  Args:
    result: the run's.
    workdir: where its results are.
    say: shows a line.
    federation: whose partition is drawn too, as `partition`, if its samples are
      those of a dataset.
  """
  if not optional.can_draw():
    say(optional.ABOUT_FIGURES)
    return
  try:
    _write(run_data.of_result(result), pathlib.Path(workdir), federation)
  except Exception as error:  # Results are complete, whatever fails here.
    warnings.warn(
      f"figures could not be drawn ({type(error).__name__}: {error}); results "
      f"are complete in {workdir}",
      stacklevel=3,
    )


def _figures(run: RunData) -> dict[str, Figure]:
  from quped_jax.experiment.figures import (
    by_client,
    levels,
    over_rounds,
    traffic,
  )

  score = run.score.name
  made = {
    f"{score}_over_rounds": over_rounds.draw(run),
    f"{score}_by_client": by_client.draw(run),
    "levels": levels.draw(run),
    "bytes": traffic.draw(run),
  }
  return {name: figure for name, figure in made.items() if figure is not None}


def _write(
  run: RunData, workdir: pathlib.Path, federation: Federation | None = None
) -> list[pathlib.Path]:
  from quped_jax.experiment.figures import style

  figures = _figures(run)
  # Synthetic clients may be 100,000, whose samples are made to be counted.
  if federation is not None and isinstance(federation.source, Pool):
    figures["partition"] = plot_partition(federation)
  folder = workdir / _FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  return [
    path
    for name, figure in figures.items()
    for path in style.save(figure, folder, name)
  ]
