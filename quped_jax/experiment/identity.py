"""The identity of a run: what its results follow from, as JSON values.

It holds the settings that change results, each under its own name, and what
settings only name: the content of the data and of the participation trace, how
networks compute, the method's version, and the library's. Runs of one identity
have the same results; a result of another identity, or of none, is never taken
for theirs.
"""

import json
from collections.abc import Mapping
from typing import Any

from quped_jax import methods, version
from quped_jax.data.federation import Federation
from quped_jax.experiment import fingerprints
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.settings import Settings
from quped_jax.methods import api

# JSON values by name.
Identity = dict[str, Any]

VERSION = "version of quped_jax"
METHOD = "code of the method"
DATA = "data"
TRACE = "content of participation_trace"
SHARED_NETWORK = "global network"

# What `differences` shows in place of what is missing.
_NONE = "not known"


def of(made: Assembly, given: Settings) -> Identity:
  """The identity of a run.

  Args:
    made: the run.
    given: its settings, as they were given.
  """
  return join(
    given,
    of_data(made.federation),
    of_networks(made.models, made.federation),
    made.population.participation.trace,
  )


def of_data(federation: Federation) -> Identity:
  """The part that follows from the data; it reads all samples."""
  return {DATA: fingerprints.of_data(federation)}


def of_networks(models: api.Models, federation: Federation) -> Identity:
  """The part that follows from the networks."""
  hashes: dict[int, str] = {}

  def look(model):
    if id(model) not in hashes:
      hashes[id(model)] = fingerprints.of_network(model, federation)
    return hashes[id(model)]

  return {
    **{f"network of {name}": look(x) for name, x in models.clients.items()},
    SHARED_NETWORK: look(models.shared),
  }


def join(
  given: Settings, data: Identity, networks: Identity, trace: Any
) -> Identity:
  """An identity of its parts.

  Args:
    given: settings, as they were given.
    data: see `of_data`.
    networks: see `of_networks`.
    trace: who takes part when, an array or a tree of them; None without.
  """
  identity = {
    **given.identity(),
    VERSION: version.__version__,
    METHOD: methods.get_method(given.method).behaviour(),
    **data,
    **networks,
    TRACE: None if trace is None else fingerprints.of_arrays(trace),
  }
  # As it is read back from a file.
  return json.loads(json.dumps(identity))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """What differs between two identities, in words; [] if nothing does.

  Args:
    there: such as one that was read from a file.
    here: such as that of the run that is to begin.
  """
  there, here = _flat(there), _flat(here)
  return [
    f"{name} is {_shown(there, name)} there and {_shown(here, name)} here"
    for name in sorted(there.keys() | here.keys())
    if name not in there
    or name not in here
    or json.dumps(there[name]) != json.dumps(here[name])
  ]


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
  """The options of methods under names of their own, `quped.lambda_p` say."""
  flat = {}
  for name, value in identity.items():
    if isinstance(value, Mapping):
      flat |= {f"{name}.{option}": x for option, x in value.items()}
    else:
      flat[name] = value
  return flat


def _shown(identity: Mapping[str, Any], name: str) -> str:
  return repr(identity[name]) if name in identity else _NONE
