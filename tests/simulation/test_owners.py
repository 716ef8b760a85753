"""Which process keeps which clients, and what it moves."""

import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.simulation import owners as owners_lib
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.owners import Owners


@st.composite
def cases(draw):
  """(owners of all processes, {cohort: participants}, {cohort: slots})."""
  devices = draw(st.permutations([0, 0, 1, 1, 2]))
  devices = np.array([*range(draw(st.integers(1, 3))), *devices])
  devices = devices[devices <= devices[:3].max()]
  count = draw(st.integers(2, 20))
  of_client = np.array(
    draw(
      st.lists(
        st.sampled_from(devices.tolist()), min_size=count, max_size=count
      )
    )
  )
  present = np.array(
    draw(st.lists(st.booleans(), min_size=count, max_size=count))
  )
  border = draw(st.integers(1, count - 1))
  ids = {
    name: np.array([i for i in part if present[i]], np.int32)
    for name, part in (
      ("b", range(border)),
      ("a", range(border, count)),
    )
  }
  slots = {name: len(devices) * draw(st.integers(1, 3)) for name in ids}
  every = [Owners(devices, of_client, p) for p in range(devices.max() + 1)]
  return every, ids, slots


@given(cases())
def test_each_participant_is_in_one_block_in_a_slot_of_its_process(case):
  every, ids, slots = case
  plans = [owners.blocks(owners.shares(ids), slots) for owners in every]
  for name, members in ids.items():
    held = np.concatenate([block.slots[name] for block in plans[0]])
    assert sorted(held[held >= 0]) == sorted(members)
  for owners, plan in zip(every, plans, strict=True):
    # However uneven, all processes run the same blocks.
    assert len(plan) == len(plans[0]) >= 1
    for block, same in zip(plan, plans[0], strict=True):
      for name, held in block.slots.items():
        np.testing.assert_array_equal(held, same.slots[name])
        assert len(held) == slots[name]
        mine = held[owners.own_slots(slots[name])]
        own = block.own[name]
        # In order, and the empty slots last: as states are moved.
        np.testing.assert_array_equal(mine[: len(own)], own)
        assert (mine[len(own) :] == -1).all()
        assert (owners.of_client[own] == owners.here).all()


@given(cases())
def test_no_more_blocks_than_the_busiest_process_needs(case):
  (owners, *_), ids, slots = case
  shares = owners.shares(ids)
  needed = [
    -(-len(clients) // (slots[name] // len(owners.of_device) * devices))
    for name, of_processes in shares.items()
    for process, clients in enumerate(of_processes)
    for devices in [int(np.sum(owners.of_device == process))]
  ]
  assert len(owners.blocks(shares, slots)) == max(1, *needed)


IDS = {"big": np.array([4, 1, 2, 5, 0]), "small": np.array([3])}


def owners_of_two(monkeypatch, here):
  """Those of four devices, of two processes."""
  monkeypatch.setattr(owners_lib.jax, "process_index", lambda: here)
  devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1, 1)]
  mesh: Any = types.SimpleNamespace(size=4, devices=np.array(devices))
  return owners_lib.owners_of(Layout(mesh, 1), IDS)


@pytest.mark.parametrize("here", [0, 1])
def test_a_client_belongs_where_its_state_would_be(monkeypatch, here):
  owners = owners_of_two(monkeypatch, here)
  # Two slots on each device, of which the last three are empty.
  own = owners.own(owners.shares(IDS))
  np.testing.assert_array_equal(own["big"], [[4, 1, 2, 5], [0]][here])
  np.testing.assert_array_equal(own["small"], [[3], []][here])
  groups = [np.array([1, 2, 3, 4, 5]), np.array([0])]
  for device, group in enumerate(owners.groups()):
    np.testing.assert_array_equal(group, groups[device // 2])
  assert owners.several


def test_nobody_is_without_a_client_of_any_cohort(monkeypatch):
  owners = owners_of_two(monkeypatch, 1)
  kept = owners.own(owners_lib.with_fillers(owners.shares(IDS), IDS))
  np.testing.assert_array_equal(kept["big"], [0])
  np.testing.assert_array_equal(kept["small"], [3])


def test_a_single_process_keeps_everyone():
  owners = owners_lib.owners_of(Layout(None, 1), IDS)
  shares = owners.shares(IDS)
  for name, members in IDS.items():
    np.testing.assert_array_equal(owners.own(shares)[name], members)
  assert not owners.several


def test_clients_are_found_wherever_they_are():
  members = np.array([4, -1, 2, 7, -1])
  found = owners_lib.positions(members, np.array([7, 4, 5, 9, 2]))
  np.testing.assert_array_equal(found, [3, 0, 0, 0, 2])
