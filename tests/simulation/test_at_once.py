import dataclasses

import jax
import pytest

import quped_jax as qj
from quped_jax.simulation import at_once, sizes
from quped_jax.simulation.memory import Estimate
from tests import tiny

# A client of the digits MLP that trains alone: its state, and its step.
SMALL = Estimate(
  data=10**7,
  server=0,
  own=36_000,
  download=0,
  message=8,
  step=58_000,
  kept=36_000,
)


def size(platform, share, slots=None, estimate=SMALL, **options):
  choice = at_once.choose(platform, share, slots or share, estimate, **options)
  assert choice.why
  return choice.size


def test_on_a_cpu_small_clients_run_a_few_at_a_time():
  def few(share, client_bytes, batches=True):
    estimate = SMALL._replace(own=0, step=client_bytes)
    return size("cpu", share, estimate=estimate, batches=batches)

  # In chunks that divide their number.
  assert few(40, 2**17) == 8
  assert few(42, 2**17) == 7
  assert few(41, 2**17) == 1
  assert few(5, 1) == 5
  assert few(40, 2**24) == 1
  assert few(40, 2**17, batches=False) == 1
  assert at_once.choose("cpu", 40, 40, None, batches=True).size == 1


def test_an_accelerator_runs_all_at_once_where_chunks_would_be_slower():
  # A round of these takes about as long as starting its operations.
  assert size("gpu", 1000) == 1000
  assert size("tpu", 16) == 16
  assert at_once.choose("gpu", 40, 40, None).size == 40


def slowdown(share, chosen, estimate):
  """By the times that the table is from."""
  chunks = -(-share // chosen)
  working = share * estimate.client / at_once._STARTING_BYTES
  return (chunks - 1) / (1 + working)


@pytest.mark.parametrize("share", [300_000, 299_993, 1_000_000, 493_824])
def test_many_clients_run_in_chunks_that_keep_copies_few(share):
  chosen = size("gpu", share)
  assert chosen < share
  assert slowdown(share, chosen, SMALL) <= 0.05
  copies = (SMALL.total(share, chosen) - SMALL.data) / (share * SMALL.kept)
  assert copies <= 1.6
  # No smaller than that asks for, by more than a divisor needs.
  larger = SMALL.total(share, 2 * chosen) - SMALL.data
  assert larger / (share * SMALL.kept) > 1.6
  if share != 299_993:
    assert share % chosen == 0


def test_speed_goes_before_copies():
  # What is shared takes most of a round, and no chunk leaves 1.6 copies.
  shared = SMALL._replace(own=0, kept=0, download=36_000)
  for share in (20_000, 100_000):
    chosen = size("gpu", share, estimate=shared)
    assert slowdown(share, chosen, shared) <= 0.05
  assert chosen < share


@pytest.mark.parametrize("room", [1, 2, 7, 30, 40, 999])
def test_never_more_than_memory_has_room_for(room):
  share = 1000
  limit = int(SMALL.total(share, room) / 0.85) + 2
  chosen = size("gpu", share, limit=limit)
  assert room // 2 <= chosen <= room
  assert SMALL.total(share, chosen) <= limit * 0.85
  choice = at_once.choose("gpu", share, share, SMALL, limit=limit)
  assert choice.why == f"memory has room for {room} of {share}"


def test_a_simulation_on_an_accelerator_chooses_by_its_memory(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  given = tiny.make_settings("local", 40, strategy="auto", bits=(32,))

  def layout(limit, **changes):
    monkeypatch.setattr(sizes, "memory_limit", lambda: limit)
    changed = dataclasses.replace(given, **changes)
    simulation, _, _ = qj.build(changed)
    if limit is not None:
      assert simulation.memory <= 0.85 * limit
    return simulation.layout

  whole = layout(None)
  assert (whole.chunk_size, whole.halved().chunk_size) == (40, 20)
  assert layout(2**40).chunk_size == 40
  needed = qj.build(given).simulation.memory
  for limit in (needed, int(needed / 0.95)):
    tight = layout(limit)
    assert 1 <= tight.chunk_size < 40
    assert tight.why.startswith("memory has room for")
  # In host memory there are only the participants' states on the device.
  block = layout(needed, client_state="host", clients_per_block=8)
  assert block.chunk_size == 8


def test_one_at_a_time_where_by_the_formula_not_even_one_fits():
  assert size("gpu", 1000, limit=1) == 1


def test_states_of_clients_that_are_absent_count_too():
  # 10 of 1000 take part.
  limit = int(SMALL.total(1000, 5) / 0.85) + 2
  assert size("gpu", 10, 1000, limit=limit) == 5
  assert size("gpu", 10, 1000) == 10
