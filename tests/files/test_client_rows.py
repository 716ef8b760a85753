"""Clients' states that several processes saved, each its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.files import client_rows
from quped_jax.files.orbax_arrays import DamagedError
from quped_jax.simulation.state import SimulationState
from tests import tiny

IDS = {
  "big": np.array([4, 1, 2, 5, 0], np.int32),
  "one": np.array([3], np.int32),
}


def state_of(ids):
  """A state with these clients, each recognized by its number."""

  def of(members):
    half = np.asarray(jnp.asarray(members, jnp.bfloat16))
    w = np.stack([members, members + 0.5], 1).astype(np.float32)
    return {"w": w, "half": half}

  clients = {name: of(members) for name, members in ids.items()}
  records = {name: (10 * members,) for name, members in ids.items()}
  parts: Any = (1, clients, dict(ids), 2, 3, records, 4)
  return SimulationState(*parts)


def saved(folder, *parts):
  for process, (big, one) in enumerate(parts):
    ids = {"big": IDS["big"][big], "one": IDS["one"][one]}
    client_rows.save(folder, state_of(ids), process)
  return client_rows.parts(folder)


def load(folders, ids):
  whole = state_of(IDS)
  shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, whole))
  return client_rows.load(folders, shapes, client_rows.shared(whole), ids)


HALVES = (slice(0, 3), slice(0, 1)), (slice(3, 5), slice(0, 0))


@pytest.mark.parametrize(
  "ids",
  [
    IDS,  # by one process
    {
      "big": np.array([4, 1], np.int32),
      "one": IDS["one"],
    },  # by the first of three
    {"big": np.array([5, 4], np.int32), "one": IDS["one"][:0]},
  ],
)
def test_any_number_of_processes_finds_its_clients(tmp_path, ids):
  folders = saved(tmp_path, *HALVES)
  assert len(folders) == 2
  found = load(folders, ids)
  expected = state_of(ids)
  tiny.assert_same_bits(
    (found.members, found.clients, found.divergence),
    (expected.members, expected.clients, expected.divergence),
  )
  assert found.server == 1 and found.monitor == 4
  # They are written in place.
  found.clients["big"]["w"][0] = 7


def test_a_client_that_nobody_saved_is_damage(tmp_path):
  folders = saved(tmp_path, *HALVES)
  with pytest.raises(DamagedError, match="the state of client 0 is missing"):
    load(folders[:1], IDS)


def test_a_file_that_is_gone_is_damage(tmp_path):
  folders = saved(tmp_path, *HALVES)
  (folders[1] / "0.npy").unlink()
  with pytest.raises(DamagedError, match="FileNotFoundError"):
    load(folders, IDS)


def test_one_process_has_no_parts(tmp_path):
  assert not client_rows.parts(tmp_path)
