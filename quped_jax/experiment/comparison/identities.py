"""Identities of the runs of a comparison; what they share is computed once."""

from collections.abc import Sequence
from typing import Any

from quped_jax.experiment import identity
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.identity import Identity


def identities(runs: Sequence[Run]) -> list[Identity]:
  """The identity of each run; compiles nothing.

  The samples of one seed are read once, and networks traced once.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  by_data: dict[Any, list[int]] = {}
  for i, run in enumerate(runs):
    by_data.setdefault(
      identity.fields_of(run.settings, identity.DATA_FIELDS), []
    ).append(i)
  found: dict[int, Identity] = {}
  networks: dict[Any, Identity] = {}
  for members in by_data.values():
    federation = build_federation(runs[members[0]].settings)
    data = identity.of_data(federation)
    for i in members:
      settings = runs[i].settings
      # Budgets are drawn, and with them networks chosen.
      seed = settings.seed if settings.budget_bytes else None
      key = identity.fields_of(settings, identity.NETWORK_FIELDS), seed
      if key not in networks:
        try:
          models = build_clients(settings, federation).models
        except ValueError as error:
          raise ValueError(f"{runs[i].row.name}: {error}") from error
        networks[key] = identity.of_networks(models, federation)
      found[i] = identity.join(
        settings, data, networks[key], identity.of_trace(settings)
      )
  return [found[i] for i in range(len(runs))]
