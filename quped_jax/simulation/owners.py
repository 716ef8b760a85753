"""Which process keeps which clients' states, and what it moves in a round.

With several processes a client belongs to one of them, for as long as the run
lasts: that on whose devices its state would be if all states were on devices
(`Layout.groups`). This process alone keeps its state, in its memory or on its
disk, trains it, evaluates it, and saves it; so that no state ever crosses
between processes, and a device holds the samples of its process's clients
only.

Who takes part in a round is drawn by all processes alike, and they know each
other's clients: so all make the same plan of blocks, without asking each other.
A block has clients of every process, each in slots of its own devices. If
fewer clients of one process take part than of another, its slots are empty in
the last blocks: every process enters every program equally often, whose sums
wait for all. That a process's clients may come up more often than another's is
the price of states that stay where they are.

A process with no client of a cohort, of which there are fewer than devices,
keeps a copy of the cohort's first client. It fills slots and is never read.

What is small crosses: sums of messages at the end of a round; scores, and
one by one the models that a run leaves, to every process (`Evaluation`); and
which clients diverged, after an evaluation (`divergence_reports`). Held-out
clients have no states: they are divided over devices whenever they are
evaluated. What is saved is written by parts, each process its own
(`checkpoint`); since ownership follows from the devices alone, any number of
processes finds the states of its clients in it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from quped_jax.simulation.layout import Layout

# {cohort: the clients of each process}, int32 `[clients]` each.
Shares = Mapping[str, Sequence[np.ndarray]]


class Block(NamedTuple):
  """Clients that are moved together.

  Attributes:
    slots: {cohort: int32 `[slots]`, which client is in each slot, over all
      devices of all processes; -1 for none}.
    own: {cohort: those of them that are this process's, in the order of its
      slots, of which the last may be empty}.
  """

  slots: Mapping[str, np.ndarray]
  own: Mapping[str, np.ndarray]


class Owners(NamedTuple):
  """Which process has which devices and clients.

  Attributes:
    of_device: int32 `[devices]`, the process of each device.
    of_client: int32 `[clients]`, the process that keeps each client.
    here: this process.
  """

  of_device: np.ndarray
  of_client: np.ndarray
  here: int

  @property
  def several(self) -> bool:
    """Whether there are several processes."""
    return len(set(self.of_device.tolist())) > 1

  def shares(self, ids: Mapping[str, np.ndarray]) -> Shares:
    """Which of some clients each process keeps, in their order."""
    processes = range(self.of_device.max() + 1)
    return {
      name: [m[self.of_client[m] == process] for process in processes]
      for name, m in ids.items()
    }

  def own(self, shares: Shares) -> dict[str, np.ndarray]:
    """This process's clients."""
    return {name: share[self.here] for name, share in shares.items()}

  def groups(self) -> list[np.ndarray]:
    """For each device, the clients whose samples it needs: its process's."""
    return [np.flatnonzero(self.of_client == p) for p in self.of_device]

  def own_slots(self, slots: int) -> np.ndarray:
    """Which of the slots of all devices are on this process's."""
    return self._places(slots)[self.here]

  def _places(self, slots: int) -> list[np.ndarray]:
    """Which slots each process has."""
    of_slot = np.repeat(self.of_device, slots // len(self.of_device))
    processes = range(self.of_device.max() + 1)
    return [np.flatnonzero(of_slot == process) for process in processes]

  def blocks(self, shares: Shares, slots: Mapping[str, int]) -> list[Block]:
    """Divides clients into blocks, at least one; the same in all processes.

    Args:
      shares: the clients.
      slots: {cohort: slots of a block, over all devices}.
    """
    places = {name: self._places(slots[name]) for name in shares}

    def part(name, process, index):
      size = len(places[name][process])
      return shares[name][process][index * size : (index + 1) * size]

    def filled(name, index):
      block = np.full(slots[name], -1, np.int32)
      for process, place in enumerate(places[name]):
        clients = part(name, process, index)
        block[place[: len(clients)]] = clients
      return block

    count = max(
      -(-len(clients) // len(place))
      for name, of_processes in shares.items()
      for clients, place in zip(of_processes, places[name], strict=True)
    )
    return [
      Block(
        {name: filled(name, index) for name in shares},
        {name: part(name, self.here, index) for name in shares},
      )
      for index in range(max(count, 1))
    ]


def owners_of(layout: Layout, ids: Mapping[str, np.ndarray]) -> Owners:
  """Who keeps the clients of a federation.

  Args:
    layout: says which devices there are.
    ids: {cohort: ids of its clients}; each client is in one.
  """
  of_device = layout.owners
  of_client = np.zeros(sum(map(len, ids.values())), np.int32)
  groups = layout.groups(ids.values())
  for process, clients in zip(of_device, groups, strict=True):
    of_client[clients] = process
  return Owners(of_device, of_client, jax.process_index())


def with_fillers(shares: Shares, ids: Mapping[str, np.ndarray]) -> Shares:
  """The shares, in which nobody is without a client of any cohort."""
  return {
    name: [m if m.size else ids[name][:1] for m in share]
    for name, share in shares.items()
  }


def positions(members: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Where in `members` these clients are; 0 for those that are not there."""
  order = np.argsort(members, kind="stable")
  at = np.searchsorted(members, wanted, sorter=order)
  found = order[np.minimum(at, len(members) - 1)]
  return np.where(members[found] == wanted, found, 0)
