"""Who takes part in a round: drawn, by chance, or as a trace says.

All of this is data of the compiled round: another draw, other probabilities or
another trace of the same length compile nothing.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import chances, kinds, paths, random_keys, reading
from quped_jax.chances import Chance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
  """Who is present in each round, as it was recorded.

  Attributes:
    clients: int32 `[entries]`, sorted by round.
    offsets: int32 `[rounds + 1]`, where the entries of each round begin.
    most: the largest number of clients in a round, static.
  """

  clients: jax.Array
  offsets: jax.Array
  most: int = dataclasses.field(metadata={"static": True})

  @property
  def rounds(self) -> int:
    """The number of rounds that the trace covers."""
    return self.offsets.shape[0] - 1

  def present(self, round_: Any, num_clients: int) -> jax.Array:
    """Who is present in a round, bool `[clients]`."""
    begin, end = self.offsets[round_], self.offsets[round_ + 1]
    entry = begin + jnp.arange(self.most)
    who = self.clients.at[entry].get(mode="clip")
    who = jnp.where(entry < end, who, num_clients)
    absent = jnp.zeros(num_clients, bool)
    return absent.at[who].set(True, mode="drop")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Participation:
  """Who takes part in a round, who works less, and who drops out of it.

  At most one of `count`, `probability` and `trace`; with none, everyone does.

  Attributes:
    probability: Chance of arrays `[clients]`, each client's probability to take
      part, independently of other clients and rounds.
    trace: who is present in which round.
    dropout: Chance of arrays `[]`, the probability that a participant does not
      complete the round: it keeps its state and sends nothing, as if it had
      been absent. None for 0.
    stragglers: Chance of arrays `[]`, the probability that a participant takes
      fewer local steps than it has, from 1 to one less, all equally likely.
      None for 0. A client of one step takes it.
    count: how many clients are drawn, uniformly, static.
    own_steps: int32 `[clients]`, the local steps of each client when it does
      not straggle; None if each has as many.
    steps: the local steps of a client that does not straggle, static; the most
      of them, if clients have their own.
  """

  probability: Chance | None = None
  trace: Trace | None = None
  dropout: Chance | None = None
  stragglers: Chance | None = None
  own_steps: jax.Array | None = None
  count: int | None = dataclasses.field(default=None, metadata={"static": True})
  steps: int = dataclasses.field(default=1, metadata={"static": True})

  def is_everyone(self, num_clients: int) -> bool:
    """Whether it is certain that all clients take part in all rounds."""
    drawn = self.count is not None and self.count < num_clients
    given = (self.probability, self.trace, self.dropout)
    return not drawn and all(x is None for x in given)

  def most(self, num_clients: int) -> int:
    """The largest possible number of clients in a round, static."""
    if self.trace is not None:
      return min(self.trace.most, num_clients)
    return num_clients if self.count is None else min(self.count, num_clients)

  def mean(self, num_clients: int) -> float:
    """How many take part in a round on average, including drop-outs."""
    if self.trace is not None:
      return self.trace.clients.shape[0] / self.trace.rounds
    if self.probability is not None:
      return float(np.sum(chances.values(self.probability)))
    return num_clients if self.count is None else min(self.count, num_clients)

  def present(self, key: jax.Array, round_: Any, num_clients: int) -> jax.Array:
    """Who completes a round.

    Args:
      key: the root of all randomness.
      round_: int32 `[]`, may be traced.
      num_clients: how many there are.

    Returns:
      Bool `[clients]`.
    """
    round_key = jax.random.fold_in(key, round_)
    key = jax.random.fold_in(round_key, random_keys.SELECTION)
    present = jnp.ones(num_clients, bool)
    if self.trace is not None:
      present = self.trace.present(round_, num_clients)
    elif self.probability is not None:
      present = chances.happens(key, self.probability)
    elif self.count is not None and self.count < num_clients:
      order = jax.random.permutation(key, num_clients)
      first = order[: self.count]
      present = jnp.zeros(num_clients, bool).at[first].set(True)
    if self.dropout is not None:
      key = jax.random.fold_in(round_key, random_keys.DROPOUT)
      dropout = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_clients,)), self.dropout
      )
      present &= ~chances.happens(key, dropout)
    return present

  def steps_of(self, client_id: Any) -> jax.Array | None:
    """How many local steps a client has, int32 `[]`; None for `steps`."""
    return None if self.own_steps is None else self.own_steps[client_id]

  def num_steps(
    self, client_key: jax.Array, own_steps: Any = None
  ) -> jax.Array | None:
    """How many local steps a participant takes, int32 `[]`; None for all.

    Args:
      client_key: the client's key of the round.
      own_steps: how many it has, see `steps_of`.
    """
    if self.stragglers is None:
      return own_steps
    steps = self.steps if own_steps is None else own_steps
    key = jax.random.fold_in(client_key, random_keys.STRAGGLER)
    chance_key, steps_key = jax.random.split(key)
    slow = chances.happens(chance_key, self.stragglers)
    fewer = jax.random.randint(steps_key, (), 1, jnp.maximum(steps, 2))
    return jnp.where(slow, fewer, steps).astype(jnp.int32)


def load_trace(path: str | os.PathLike, num_clients: int, rounds: int) -> Trace:
  """Reads a trace of who is present in which round.

  Args:
    path: a CSV file with the columns `round` and `client`, both from 0, in any
      order. A round that it does not name has no participant.
    num_clients: how many clients there are.
    rounds: how many rounds there are.

  Raises:
    ValueError: no such file, no such columns, or a line of a round or client
      that does not exist; names the line.
  """
  field = f"participation_trace={str(path)!r}"
  given = paths.given("participation_trace", path)
  with reading.naming(field, "a CSV file of rounds and clients"):
    entries = {
      (
        _number(place, "round", row, rounds),
        _number(place, "client", row, num_clients),
      )
      for place, row in reading.read_csv(given, ("round", "client"))
    }
    if not entries:
      raise ValueError("it must name at least one client")
  table = np.array(sorted(entries), np.int32)
  counts = np.bincount(table[:, 0], minlength=rounds)
  return Trace(
    clients=jnp.asarray(table[:, 1]),
    offsets=jnp.asarray(np.append(0, np.cumsum(counts)), jnp.int32),
    most=int(counts.max()),
  )


def _number(place: str, what: str, row: dict[str, str], count: int) -> int:
  return kinds.whole_text(f"{place}: {what}", row[what], 0, count - 1)


def check_participation(
  num_clients: int,
  *,
  clients_per_round: int,
  stragglers: float,
  steps: int,
) -> None:
  """Raises a ValueError unless clients can take part so; see `Settings`."""
  if clients_per_round > num_clients:
    raise ValueError(
      f"clients_per_round={clients_per_round}: must be at most "
      f"{num_clients}, the number of clients, or 0 for all"
    )
  if stragglers and steps < 2:
    raise ValueError(
      f"stragglers={stragglers}: must be 0 with steps={steps}, of which "
      "nobody can take fewer"
    )
