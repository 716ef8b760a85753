"""Checks of a state that a run is to go on from, before it is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.experiment.assemble import Assembly
from quped_jax.quantization.codebook_tree import path_name
from quped_jax.simulation.state import SimulationState


def check_state(made: Assembly, state: SimulationState | None) -> None:
  """Raises a ValueError unless the run can go on from a state.

  Args:
    made: the run.
    state: the state; None for fresh weights.
  """
  if state is None:
    return
  settings, done = made.settings, int(state.round)
  if done >= settings.rounds:
    raise ValueError(
      f"rounds={settings.rounds}: must be more than {done}, the rounds that "
      "the state has behind it"
    )
  finetuning = bool(settings.finetune_at) and done > settings.finetune_at
  expected = made.simulation.shapes(finetuning)
  _check_tree("state.server", state.server, expected.server)
  if jax.tree.leaves(state.clients):  # They are elsewhere if not on the device.
    _check_tree("state.clients", state.clients, expected.clients, stacked=True)
    _check_members(state.members, expected.members)
  wrong = [
    name
    for name, x in _named(state.server).items()
    if jnp.issubdtype(x.dtype, jnp.floating) and not bool(jnp.isfinite(x).all())
  ]
  if wrong:
    raise ValueError(
      f"state.server: must be finite; {', '.join(wrong)} are not"
    )


def _named(tree: Any) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_name(path): x for path, x in leaves}


def _check_tree(
  field: str, tree: Any, expected: Any, *, stacked: bool = False
) -> None:
  """Compares shapes and types; of stacked trees not the number of slots."""
  have, want = _named(tree), _named(expected)
  for name in sorted(have.keys() | want.keys()):
    found, must = (
      (tuple(x.shape[1:] if stacked else x.shape), str(x.dtype))
      if x is not None
      else None
      for x in (have.get(name), want.get(name))
    )
    if found != must:
      raise ValueError(
        f"{field}: must be as these settings have it; {name!r} is "
        f"{_words(found)} and must be {_words(must)}"
      )


def _words(kind: tuple[tuple[int, ...], str] | None) -> str:
  return "absent" if kind is None else f"{kind[1]} {list(kind[0])}"


def _check_members(members: Any, expected: Any) -> None:
  """The clients must be those of the settings, in whichever slots."""
  if jax.process_count() > 1:
    return  # A process sees only its own.
  for cohort, ids in members.items():
    found = np.unique(np.asarray(ids))
    found, must = found[found >= 0], expected[cohort].shape[0]
    if found.size != must:
      raise ValueError(
        f"state.clients: must be those of these settings, {must} in cohort "
        f"{cohort!r}; got {found.size}"
      )
