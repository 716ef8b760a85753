"""Clients' states off the devices: the same results, and no wasted space."""

import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.simulation.store import Store, gather, scatter
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = {
  "w": jax.ShapeDtypeStruct((2, 3), jnp.float32),
  "n": jax.ShapeDtypeStruct((), jnp.int32),
}
CLIENTS = len(tiny.COUNTS)


def nbytes(folder):
  return sum(path.stat().st_size for path in folder.rglob("*.npy"))


@pytest.mark.parametrize("where", ["host", "disk"])
def test_rows_come_back_as_they_were_written(where, tmp_path):
  states = Store(where, tmp_path).allocate(SHAPES, 7, "some")
  assert states["w"].shape == (7, 2, 3) and states["n"].dtype == np.int32
  rows = np.array([5, 0, 3])
  new = {"w": np.arange(24.0).reshape(4, 2, 3), "n": np.arange(4)}
  scatter(states, rows, new)  # The last row belongs to an empty slot.
  back = gather(states, rows)
  np.testing.assert_array_equal(back["w"], new["w"][:3])
  np.testing.assert_array_equal(back["n"], new["n"][:3])
  assert (nbytes(tmp_path) > 7 * 28) == (where == "disk")


def test_the_room_on_disk_is_taken_at_once(tmp_path):
  Store("disk", tmp_path).allocate(SHAPES, 10**5, "some")
  blocks = sum(p.stat().st_blocks * 512 for p in tmp_path.rglob("*.npy"))
  assert blocks >= 28 * 10**5


@pytest.mark.slow
def test_a_full_disk_is_an_error_before_the_run_that_leaves_nothing(tmp_path):
  """Files may not grow beyond a limit, which the system enforces."""
  (tmp_path / "metrics.jsonl").write_text("kept\n")
  program = """
    import resource, sys, jax, jax.numpy as jnp
    from quped_jax.simulation.store import Store
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    shapes = [jax.ShapeDtypeStruct((1000,), jnp.float32)] * 2
    Store("disk", sys.argv[1]).allocate(shapes, 300, "some")
  """
  result = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  )
  assert result.returncode == 1, result.stderr
  assert "client_state='disk': must have room for 2,400,000 bytes" in (
    result.stderr
  )
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_each_process_has_a_folder_and_the_first_cleans_up(
  tmp_path, monkeypatch
):
  store = Store("disk", tmp_path / "clients")
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  for process in range(3):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    store.allocate(SHAPES, 7, "some")
  names = ["clients", "clients_of_process_1", "clients_of_process_2"]
  assert sorted(x.name for x in tmp_path.iterdir()) == names
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  store.remove()
  assert sorted(x.name for x in tmp_path.iterdir()) == [names[0], names[2]]
  # Those of others who are there stay; a run of fewer begins.
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  store.remove("some")
  assert sorted(x.name for x in tmp_path.iterdir()) == [names[0], names[2]]
  store.remove()
  assert [x.name for x in tmp_path.iterdir()] == [names[2]]
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  store.remove()
  assert not list(tmp_path.iterdir())
