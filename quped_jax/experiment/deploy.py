"""The models that a run leaves for use, as packed files.

`models/client_00012.safetensors` is the model that client 12 would use, the
primary variant. `models/global.safetensors` is the method's global model, or
`models/global_COHORT.safetensors` where there is one for each network. Where
the primary variant is the global model, clients have no files of their own.
"""

import dataclasses
import os
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from quped_jax.data.federation import Pool
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.build_clients import describe
from quped_jax.files.info import BackInfo, ModelInfo
from quped_jax.files.packed import save_packed
from quped_jax.models import Model
from quped_jax.simulation import processes
from quped_jax.simulation.state import SimulationState

_FOLDER = "models"
# The last: of a run that was killed while it wrote one.
_OWN = ("client_*.safetensors*", "global*.safetensors*", ".*.part")


class _Files:
  """Writes models; warns at the end of those that are not finite."""

  def __init__(self, made: Assembly, workdir: str | os.PathLike):
    self._folder = pathlib.Path(workdir) / _FOLDER
    self._scale = {}
    if isinstance(made.federation.source, Pool):
      pool = made.federation.source
      self._scale = {"mean": np.asarray(pool.mean), "std": np.asarray(pool.std)}
    self._missing: list[str] = []

  def write(self, name: str, params: Any, stats: Any, info: ModelInfo) -> None:
    if not processes.is_first():
      return
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
      self._missing.append(name)
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    path = self._folder / f"{name}.safetensors"
    save_packed(path, params, stats, info, **self._scale)

  def finish(self) -> None:
    if self._missing:
      warnings.warn(
        f"models of {', '.join(sorted(self._missing))} are not finite, and "
        "have no files",
        stacklevel=3,
      )


def _global_networks(made: Assembly) -> dict[str, Model]:
  """The global model's network for each cohort; {} without such a model."""
  found: dict[str, Model] = {}
  method = made.method

  def look(key):
    server = method.init_server(key, made.federation.example())
    for cohort in made.cohorts():
      if method.global_model is not None:
        found[cohort] = method.global_model(server, cohort)[2]

  jax.eval_shape(look, jax.random.key(0))
  return found


def _describe(
  made: Assembly, cohort: str, model: Model, variant: str
) -> ModelInfo:
  """How a file describes a variant of the model of a cohort's clients."""
  network, _ = made.cohorts()[cohort]
  front, back = model, None
  if model.stacked is not None:
    front, named = model.stacked
    back = BackInfo(named.name, dict(named.options))
  if front is made.models.shared:
    network = made.settings.shared_network()
  elif front is not made.models.clients[cohort]:
    raise ValueError(
      f"save_models={made.settings.save_models!r}: must be 'none' with "
      f"method={made.settings.method!r}, whose {variant} model {model.name!r} "
      "is neither the clients' nor the server's network, so that a file cannot "
      "name it"
    )
  info = describe(made.settings, made.federation, network)
  return dataclasses.replace(info, variant=variant, back=back)


def _client_infos(made: Assembly) -> dict[str, ModelInfo]:
  """How files describe the models of each cohort; {} if clients have none."""
  primary_variant = made.method.primary_variant
  if primary_variant == "global":
    return {}
  return {
    cohort: _describe(
      made,
      cohort,
      made.primary_model(cohort, int(members[0]))[2],
      primary_variant,
    )
    for cohort, (_, members) in made.cohorts().items()
  }


def _global_infos(made: Assembly) -> dict[str, tuple[str, ModelInfo]]:
  """By file name: a cohort that uses this global model, and its description."""
  networks = _global_networks(made)
  infos = {
    cohort: _describe(made, cohort, model, "global")
    for cohort, model in networks.items()
  }
  if len({id(model) for model in networks.values()}) == 1:
    cohort = next(iter(infos))
    return {"global": (cohort, infos[cohort])}
  return {f"global_{cohort}": (cohort, info) for cohort, info in infos.items()}


def check(
  made: Assembly, workdir: str | os.PathLike | None, *, model_given: bool
) -> None:
  """Raises a ValueError if the run is to leave models, but cannot.

  Args:
    made: the run.
    workdir: where results are written; None for nowhere.
    model_given: whether its network was given as an object, without a name that
      a file could hold.
  """
  choice = made.settings.save_models
  if choice == "none":
    return
  if workdir is None:
    raise ValueError(
      f"save_models={choice!r}: must be 'none' without a workdir, where the "
      "files would go"
    )
  if model_given:
    raise ValueError(
      f"save_models={choice!r}: must be 'none' with a given model, which a "
      "file cannot name; register it with register_model"
    )
  _client_infos(made)
  _global_infos(made)


def clear(workdir: str | os.PathLike) -> None:
  """Removes the models that an earlier run left."""
  for pattern in _OWN:
    for path in (pathlib.Path(workdir) / _FOLDER).glob(pattern):
      path.unlink(missing_ok=True)


def save_models(
  made: Assembly, state: SimulationState, workdir: str | os.PathLike
) -> None:
  """Writes the models of a state, one after the other.

  Only a few of them are in memory at a time. With several processes, all must
  call it, and the first writes.

  Args:
    made: the run.
    state: the state whose models are written.
    workdir: they go into its folder "models".

  Raises:
    ValueError: a file that cannot be written.
  """
  files = _Files(made, workdir)
  for name, (cohort, info) in _global_infos(made).items():
    global_model: Any = made.method.global_model
    params, stats, _ = global_model(state.server, cohort)
    files.write(name, jax.device_get(params), jax.device_get(stats), info)
  infos, bits = _client_infos(made), made.stored_bits()
  if infos:
    for client_id, cohort, params, stats in made.simulation.primary_models(
      state
    ):
      info = dataclasses.replace(
        infos[cohort], client=client_id, bits=int(bits[client_id])
      )
      files.write(f"client_{client_id:05d}", params, stats, info)
  files.finish()
