"""Identities of the runs of a comparison; what they share is computed once."""

from collections.abc import Sequence

from quped_jax.experiment import many
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.identity import Identity


def identities(
  runs: Sequence[Run], sources: many.Sources | None = None
) -> list[Identity]:
  """The identity of each run; compiles nothing.

  The samples of one seed are read once, and networks traced once.

  Args:
    runs: the runs.
    sources: where what they share is kept, for what else needs it.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  sources = sources or many.Sources()
  found = []
  for run in runs:
    # The same for all rows: an error in it is not the row's.
    sources.federation(run.settings)
    try:
      found.append(sources.identity(run.settings))
    except ValueError as error:
      raise ValueError(f"{run.row.name}: {error}") from error
  return found
