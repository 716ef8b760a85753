import os
import subprocess
import sys

import jax
import pytest

from quped_jax.simulation import layout as layout_lib


def test_strategies_decide_how_many_run_at_once():
  def size(*args, **options):
    return layout_lib.resolve_layout(*args, devices=1, **options).chunk_size

  assert size("vmap", 3, 40) == 40
  assert size("chunks", 3, 40) == 3
  assert size("chunks", 50, 40) == 40
  assert size("dispatch", 3, 40) == 3
  on_cpu = jax.default_backend() == "cpu"
  assert size("auto", 3, 40) == (1 if on_cpu else 40)
  assert size("auto", 3, 40, room_for=7) == (1 if on_cpu else 7)
  if on_cpu:
    # Small clients run a few at a time, in chunks that divide their number.
    assert size("auto", 3, 40, client_bytes=2**17) == 8
    assert size("auto", 3, 42, client_bytes=2**17) == 7
    assert size("auto", 3, 41, client_bytes=2**17) == 1
    assert size("auto", 3, 5, client_bytes=1) == 5
    assert size("auto", 3, 40, client_bytes=2**24) == 1


def test_devices_share_the_clients():
  if len(jax.local_devices()) < 4:
    pytest.skip("fewer than 4 devices")
  layout = layout_lib.resolve_layout("vmap", 1, 9, devices=4)
  assert (layout.devices, layout.chunk_size, layout.slots(9)) == (4, 3, 12)
  # Never more devices than participants.
  layout = layout_lib.resolve_layout("vmap", 1, 3)
  assert (layout.devices, layout.chunk_size, layout.at_once) == (3, 1, 3)
  assert layout_lib.resolve_layout("auto", 1, 1).mesh is None


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
