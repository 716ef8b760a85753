import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.simulation import layout as layout_lib
from quped_jax.simulation.memory import Estimate


def test_strategies_decide_how_many_run_at_once():
  def size(*args, **options):
    return layout_lib.resolve_layout(*args, devices=1, **options).chunk_size

  assert size("vmap", 3, 40) == 40
  assert size("chunks", 3, 40) == 3
  assert size("chunks", 50, 40) == 40
  assert size("dispatch", 3, 40) == 3
  assert size("auto", 3, 40) == 1
  assert size("auto", 3, 40, platform="gpu") == 40


def test_a_layout_says_why_so_many_run_at_once():
  def why(*args, **options):
    return layout_lib.resolve_layout(*args, devices=1, **options).why

  assert why("vmap", 3, 40) == "all of them, as strategy says"
  assert why("chunks", 3, 40) == "as chunk_size says"
  assert why("auto", 3, 40) == "one at a time is fastest on a CPU"
  assert "nothing known of their size" in why("auto", 3, 40, platform="gpu")
  half = layout_lib.resolve_layout("vmap", 1, 5, devices=1).halved()
  assert (half.chunk_size, half.why) == (3, "memory had no room for 5 at once")
  assert half.halved().halved().chunk_size == 1


@pytest.mark.usefixtures("four")
def test_each_device_chooses_for_its_share():
  estimate = Estimate(0, 0, own=4, download=0, message=0, step=2**25, kept=4)
  layout = layout_lib.resolve_layout(
    "auto", 1, 40, devices=4, platform="gpu", clients=80, estimate=estimate
  )
  assert layout.chunk_size == 10
  # 20 states are on each device, and 10 clients of it take part.
  layout = layout_lib.resolve_layout(
    "auto",
    1,
    40,
    devices=4,
    platform="gpu",
    clients=80,
    estimate=estimate,
    limit=int((20 * 4 + 5 * (2**25 + 4)) / 0.85) + 2,
  )
  assert layout.chunk_size == 5


@pytest.fixture(scope="module")
def four():
  # The tests simulate 8 on a CPU; a machine with accelerators may have fewer.
  if len(jax.local_devices()) < 4:
    pytest.skip("fewer than 4 devices")
  return layout_lib.resolve_layout("chunks", 2, 8, devices=4)


@pytest.mark.usefixtures("four")
def test_devices_share_the_clients():
  layout = layout_lib.resolve_layout("vmap", 1, 9, devices=4)
  assert (layout.devices, layout.chunk_size, layout.slots(9)) == (4, 3, 12)
  # Never more devices than participants.
  layout = layout_lib.resolve_layout("vmap", 1, 3)
  assert (layout.devices, layout.chunk_size, layout.at_once) == (3, 1, 3)
  assert layout_lib.resolve_layout("auto", 1, 1).mesh is None


def test_all_devices_run_their_chunks_at_once(four):
  assert four.at_once == 8
  assert layout_lib.Layout(None, 3).at_once == 3


def test_each_device_has_a_share_of_every_stack(four):
  groups = four.groups([np.arange(8), np.arange(10, 13)])
  want = [[0, 1, 10], [2, 3, 11], [4, 5, 12], [6, 7]]
  assert [group.tolist() for group in groups] == want
  (alone,) = layout_lib.Layout(None, 1).groups([np.arange(3), np.arange(5, 7)])
  assert alone.tolist() == [0, 1, 2, 5, 6]


def test_parts_are_joined_and_filled_with_zeros(four):
  joined = four.join(
    lambda device: np.full((device, 2), device), (3, 2), np.dtype(np.int32)
  )
  want = np.zeros((12, 2))
  for device in range(4):
    want[3 * device : 3 * device + device] = device
  np.testing.assert_array_equal(joined, want)


def test_sums_and_gathers_are_over_devices(four):
  def both(x):
    return four.sum(x), four.gather(x)

  outputs = layout_lib.SAME, layout_lib.SAME
  fn = jax.jit(four.shard(both, layout_lib.DIVIDED, outputs))
  total, whole = fn(jnp.arange(8.0))
  np.testing.assert_array_equal(total, [0 + 2 + 4 + 6, 1 + 3 + 5 + 7])
  np.testing.assert_array_equal(whole, np.arange(8.0))
  alone = layout_lib.Layout(None, 1)
  assert alone.sum(3) == alone.gather(3) == 3


@pytest.mark.parametrize(
  ("strategy", "chunk_size", "devices", "message"),
  [
    ("pmap", 1, 0, "strategy='pmap': must be one of auto, vmap, chunks, disp"),
    ("chunks", 0, 0, "chunk_size=0: must be at least 1"),
    ("chunks", 1, -1, "devices=-1: must be at least 0"),
    ("chunks", 1, 99, "devices=99: must be at most"),
  ],
)
def test_wrong_strategies_are_errors(strategy, chunk_size, devices, message):
  with pytest.raises(ValueError, match=message):
    layout_lib.resolve_layout(strategy, chunk_size, 4, devices=devices)


@pytest.mark.slow
def test_cores_become_devices_before_jax_is_used_and_not_after():
  code = (
    "import jax, quped_jax as qj;"
    "first = qj.use_cores(3); count = len(jax.devices());"
    "print(first, count, qj.use_cores(1), len(jax.devices()))"
  )
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  environment.pop("JAX_NUM_CPU_DEVICES", None)
  result = subprocess.run(
    [sys.executable, "-c", code],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  cores = min(len(os.sched_getaffinity(0)), 3)
  assert result.stdout.split() == ["True", str(cores), "False", str(cores)]


def test_devices_wait_for_each_other_and_flags_of_the_user_stay(monkeypatch):
  name = "--xla_cpu_collective_call_terminate_timeout_seconds"
  monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp/x {name}=50")
  for _ in range(2):
    layout_lib.wait_for_devices()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_dump_to=/tmp/x", f"{name}=50"]
    assert len(flags) == 3
  monkeypatch.delenv("XLA_FLAGS")
  layout_lib.wait_for_devices()
  assert f"{name}=604800" in os.environ["XLA_FLAGS"].split()
