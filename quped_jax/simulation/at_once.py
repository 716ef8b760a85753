"""How many clients run at once on a device, where that is left to us.

On an accelerator clients that run at once share the cost of starting each
operation, and each takes memory: its state is kept while a copy is trained, and
a step needs several times as much. Measured by `memory_analysis` of compiled
rounds (digits MLP, batch 16, 10 local steps, 1000 clients that train alone;
without samples, in copies of all clients' states):

| at once | 1000 | 500 | 300 | 250 | 200 | 125 | 64 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| copies | 3.4 | 2.1 | 2.0 | 1.6 | 1.5 | 1.3 | 1.2 |
| by the formula | 3.6 | 2.3 | 1.8 | 1.7 | 1.5 | 1.3 | 1.2 |

A chunk that divides the number of clients takes less, as 250 against 300: none
of its clients have to be copied together.

Chunks cost time: every chunk starts all operations anew. On an H200 a round of
10 steps of that MLP takes 1.5 ms with 16 clients and 2.2 ms with 1024, that is
1.49 ms to start and 0.7 us for each client. In 1.49 ms the device works through
2100 of them, or 200 MB at the 94 KB that each takes while it runs. A round in k
chunks instead of one then takes (k - 1) / (1 + share * client / 200 MB) longer:
with a quarter of 1000 such clients at a time, three times as long as with all
at once, and with a quarter of 200 000, 3 % longer. This follows from those two
times; rounds in chunks have not been timed on an accelerator.
"""

from typing import NamedTuple

from quped_jax.simulation.memory import Estimate

# Copies of clients' states, beside the samples, that a round is to take at
# most; and by how much chunks may slow it down for that.
_COPIES, _SLOWER = 1.6, 0.05
# Bytes of clients that a device works through while it starts a step's
# operations: 200 MB on an H200, see above; others are not measured.
_STARTING_BYTES = 2**28
# The rest is left to the programs themselves, and to fragmentation.
_USABLE_MEMORY = 0.85

# Of a CPU: bytes that stay in a core's cache, half of the smallest common
# today, and the most clients whose operations gain by being batched.
_CORE_BYTES, _CORE_MOST = 2**20, 16


class Choice(NamedTuple):
  """How many clients run at once on each device.

  Attributes:
    size: the number, at least 1.
    why: the reason, in words.
  """

  size: int
  why: str


def choose(
  platform: str,
  share: int,
  slots: int,
  estimate: Estimate | None,
  *,
  limit: int | None = None,
  batches: bool = False,
) -> Choice:
  """Chooses how many clients run at once.

  On a CPU that is one, since batched small products and copies of stacked state
  cost more than they save; or a few, where clients are so small that most of
  the time goes into starting operations.

  On an accelerator it is as many as memory has room for; but in as many chunks
  as slow a round down by at most 5 %, where with fewer of them it would take
  more than 1.6 copies of all clients' states.

  Args:
    platform: where they run, such as "cpu" or "gpu".
    share: how many clients of a device take part in a round.
    slots: the clients whose states are on the device.
    estimate: the terms of a round's memory; None if unknown.
    limit: bytes of the device's memory; None if it does not say.
    batches: whether small clients gain on a CPU by running at once.
  """
  if platform == "cpu":
    few = _few(share, estimate.client if estimate and batches else None)
    if few > 1:
      return Choice(few, "so many small clients fit into a core's cache")
    return Choice(1, "one at a time is fastest on a CPU")
  if estimate is None:
    return Choice(share, "all of them, with nothing known of their size")
  return _on_accelerator(share, slots, estimate, limit)


def _on_accelerator(share, slots, estimate, limit):
  room = share
  if limit is not None:
    room = estimate.room_for(slots, int(_USABLE_MEMORY * limit))
    room = max(min(share, room), 1)
  fast = -(-share // _most_chunks(share * estimate.client))
  copies = estimate.data + int(_COPIES * slots * estimate.kept)
  lean = estimate.room_for(slots, copies)
  size = _dividing(share, min(max(fast, lean), room), min(fast, room), room)
  if size == share:
    return Choice(size, "all of them: in chunks they would be slower")
  if size == room or size < fast:
    return Choice(size, f"memory has room for {room} of {share}")
  return Choice(
    size, f"chunks of {share} that save memory and cost at most 5 % of speed"
  )


def slower(parts: int, nbytes: int) -> float:
  """By what share a round takes longer if clients run in so many parts.

  Args:
    parts: how many follow one another, on an accelerator.
    nbytes: that all of these clients take while they run.
  """
  return (parts - 1) / (1 + nbytes / _STARTING_BYTES)


def _most_chunks(nbytes: int) -> int:
  """In how many chunks these bytes of clients are nearly as fast as in one."""
  return 1 + int(_SLOWER / slower(2, nbytes))


def _dividing(share: int, wanted: int, least: int, most: int) -> int:
  """A divisor of the share near the wanted size, or else that size.

  It is at most the wanted size, if one lies between `least`, or half the wanted
  size, and that; otherwise it is the next larger one, up to twice the wanted
  size and `most`.
  """
  sizes = [n for n in range(1, share + 1) if share % n == 0]
  least = min(least, -(-wanted // 2))
  below = [n for n in sizes if least <= n <= wanted]
  above = [n for n in sizes if wanted < n <= min(2 * wanted, most)]
  return next(iter(below[-1:] + above[:1]), wanted)


def _few(share: int, client_bytes: int | None) -> int:
  """How many small clients a core runs at once: a divisor of its share."""
  if not client_bytes:
    return 1
  most = min(max(_CORE_BYTES // client_bytes, 1), _CORE_MOST, share)
  return max(size for size in range(1, most + 1) if share % size == 0)
