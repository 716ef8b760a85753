"""Clients that diverge are found in the round in which it happens.

A client's round counts if its loss is finite and at most `LARGEST_LOSS`, all of
its new state is finite, without negative variances, and its message is not too
long: the norm over all of its floating-point arrays is at most a given limit
or, without one, `TIMES_MEDIAN` times the median norm of earlier rounds. SGD
with too large a step size often stays finite for a while, with weights of 1e26;
the norm shows that. Nor does it count if the client's weight is not from 0 to
its number of samples, or its message is none that an honest client could send:
what cannot be true is not believed. A client that teaches a copy of the global
model (QuPeD) may diverge and still send a short message; the loss shows that:
it must not exceed both `LARGE_LOSS` and a thousand times the median loss.

Only sums cross between clients and devices. A median is therefore taken from a
histogram of all values so far, with four bins to an octave, and is exact to the
width of a bin. Before the first round there is no histogram, so the first round
is first run once for its norms and losses alone.

If a limit on norms is given, nothing is compared with other clients; the
promises of differential privacy depend on that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quped_jax.checks import LARGEST
from quped_jax.methods import api
from quped_jax.methods.exchange import is_statistic
from quped_jax.quantization.codebook_tree import path_name

LARGEST_LOSS = 1e6
TIMES_MEDIAN = 100.0
# A loss below LARGE_LOSS is never too large; one between the two is if it is so
# many times the median. Clients that join a well-trained model have large ones.
LARGE_LOSS = 1e3
# A mean is at most as long as the longest message, and with momentum 0.9 ten
# times as long: a server whose step is longer went further than it was told.
# What no message moves, a generator, does not grow so much in an honest round.
LONG_SERVER_STEP = 20.0
_TIMES_MEDIAN_LOSS = 1e3

# Rounds in a row after which a client is reported, or a run is given up.
IN_A_ROW = 3
# A run is given up only if, besides, so many clients in a row have diverged:
# where few take part in a round, they may be the same few each time.
_LOST_CLIENTS = 30

# Beyond this total, counts are halved, so that they do not overflow.
_MOST_COUNTS = 2**30

_PER_OCTAVE = 4
_BINS = 512
_MIDDLE = _BINS // 2  # The bin of 1.


class DivergenceRecord(NamedTuple):
  """What is known of clients' divergence, int32 `[slots]`.

  Attributes:
    undone: how many of a client's rounds were undone.
    streak: how many in a row, up to the last round that it took part in.
    longest: the longest streak.
    last: the last round that was undone; -1 for none.
  """

  undone: Any
  streak: Any
  longest: Any
  last: Any


class DivergenceMonitor(NamedTuple):
  """What the server knows of clients' divergence.

  Attributes:
    norms: int32 `[bins]`, how many messages had norms in each bin.
    losses: int32 `[bins]`, how many clients had losses in each bin.
    calibrated: bool `[]`, whether the first round may begin.
    undone: int32 `[]`, how many rounds were undone, summed over all clients.
    lost: int32 `[]`, for how many rounds in a row every participant diverged;
      rounds without participants do not count.
    lost_clients: int32 `[]`, how many clients diverged in these rounds, counted
      once per round.
    over: bool `[]`, whether that was ever enough to give up.
    failed: int32 `[]`, the first round after which the server's state would not
      have been sound, and was therefore left as it was; -1 for none.
    server_step: float32 `[]`, how long the server's last step was, see there.
    refused: int32 `[]`, how many of the rounds that were undone had a finite
      message that was not believed, for its weight or what it reports.
  """

  norms: Any
  losses: Any
  calibrated: Any
  undone: Any
  lost: Any
  lost_clients: Any
  over: Any
  failed: Any
  server_step: Any
  refused: Any


class Tally(NamedTuple):
  """What is counted of a client's round, and summed over clients.

  Attributes:
    heard: float32 `[]`, clients whose state is kept and whose message counts.
    diverged: float32 `[]`, clients whose round is undone.
    norms: int32 `[bins]`, histogram of the norms of messages.
    losses: int32 `[bins]`, histogram of the clients' losses.
    refused: float32 `[]`, those of `diverged` whose finite message is not
      believed.
  """

  heard: Any
  diverged: Any
  norms: Any
  losses: Any
  refused: Any = 0.0

  @property
  def metrics(self) -> dict[str, jax.Array]:
    """The metrics that every method reports."""
    return {"participants": self.heard, "diverged": self.diverged}


def new_records(slots: int) -> DivergenceRecord:
  """The records before any client has diverged."""
  nothing = jnp.zeros(slots, jnp.int32)
  return DivergenceRecord(nothing, nothing, nothing, nothing - 1)


def new_monitor(calibrated: bool) -> DivergenceMonitor:
  """The monitor before any message was heard.

  Args:
    calibrated: whether the first round needs no norms beforehand.
  """
  nothing = jnp.int32(0)
  return DivergenceMonitor(
    jnp.zeros(_BINS, jnp.int32),
    jnp.zeros(_BINS, jnp.int32),
    jnp.bool_(calibrated),
    undone=nothing,
    lost=nothing,
    lost_clients=nothing,
    over=jnp.bool_(False),
    failed=nothing - 1,
    server_step=jnp.float32(0),
    refused=nothing,
  )


def _floats(tree: Any) -> list[jax.Array]:
  return [
    jnp.asarray(x)
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)
  ]


def _norm(tree: Any) -> jax.Array:
  floats = [x.astype(jnp.float32) for x in _floats(tree)]
  return jnp.asarray(optax.tree.norm(floats), jnp.float32)


def _bin(value: jax.Array) -> jax.Array:
  """A histogram of one value; empty if it is zero or not finite."""
  known = jnp.isfinite(value) & (value > 0)
  place = jnp.floor(_PER_OCTAVE * jnp.log2(jnp.where(known, value, 1.0)))
  place = jnp.clip(place.astype(jnp.int32) + _MIDDLE, 0, _BINS - 1)
  return ((jnp.arange(_BINS) == place) & known).astype(jnp.int32)


def median(counts: jax.Array) -> jax.Array:
  """The median of a histogram, as the upper end of the bin that it is in.

  Args:
    counts: int32 `[bins]`.

  Returns:
    float32 `[]`; infinite for an empty histogram.
  """
  below = jnp.cumsum(counts)
  place = jnp.argmax(below >= below[-1] - below)
  value = jnp.exp2((place + 1 - _MIDDLE) / _PER_OCTAVE)
  return jnp.where(below[-1] > 0, value, jnp.inf).astype(jnp.float32)


def longest(counts: jax.Array) -> jax.Array:
  """The upper end of a histogram's last bin that is not empty; 0 if all are."""
  place = _BINS - 1 - jnp.argmax(counts[::-1] > 0)
  value = jnp.exp2((place + 1 - _MIDDLE) / _PER_OCTAVE)
  return jnp.where(jnp.any(counts > 0), value, 0.0).astype(jnp.float32)


def server_step(
  moves: api.ServerMoves | None, old: Any, new: Any, norms: jax.Array
) -> jax.Array:
  """How far a server moved what it moves by a step size of its own.

  Args:
    moves: `server -> parameters`, or None; see `FederatedMethod`.
    old: the server before its step.
    new: the server after it.
    norms: int32 `[bins]`, of the messages that it heard.

  Returns:
    float32 `[]`, in units of the longest message, or of the length that the
    parameters had before if that is more; 0 if there are none.
  """
  if moves is None:
    return jnp.float32(0)
  before, after = moves(old), moves(new)
  step = _norm(jax.tree.map(jnp.subtract, after, before))
  unit = jnp.maximum(longest(norms), _norm(before))
  return jnp.where(unit > 0, step / jnp.where(unit > 0, unit, 1.0), 0.0)


def limit_of(monitor: DivergenceMonitor, max_norm: float) -> jax.Array:
  """The largest norm that a message of a round may have, float32 `[]`.

  Args:
    monitor: before the round.
    max_norm: the given limit; 0 for none.
  """
  if max_norm:
    return jnp.float32(max_norm)
  return TIMES_MEDIAN * median(monitor.norms)


def loss_limit_of(monitor: DivergenceMonitor, max_norm: float) -> jax.Array:
  """The largest loss that a client may have; see `limit_of`."""
  if max_norm:
    return jnp.float32(LARGEST_LOSS)
  large = _TIMES_MEDIAN_LOSS * median(monitor.losses)
  return jnp.clip(large, LARGE_LOSS, LARGEST_LOSS)


def finite(tree: Any) -> jax.Array:
  """Whether all floating-point numbers of a tree are finite, bool `[]`."""
  found = [jnp.all(jnp.isfinite(x)) for x in _floats(tree)]
  return jnp.all(jnp.stack(found)) if found else jnp.bool_(True)


def sound(tree: Any) -> jax.Array:
  """Whether a tree is finite and none of its variances is negative, bool `[]`.

  Variances are batch-norm statistics named `var`, as in flax: a negative one
  gives NaN, though not on every device.
  """

  def is_variance(path):
    return is_statistic(path) and path_name(path).split("/")[-1] == "var"

  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  fine = [jnp.all(x >= 0) for path, x in leaves if is_variance(path)]
  return jnp.all(jnp.stack([finite(tree), *fine]))


def judge(
  result: Any,
  monitor: DivergenceMonitor,
  max_norm: float,
  *,
  samples: Any = LARGEST,
  plausible: Any = True,
) -> Tally:
  """Whether a client's round counts.

  Args:
    result: the client's ClientResult, whose metrics may hold a loss.
    monitor: before the round.
    max_norm: limit on a message's norm; 0 to go by the running median.
    samples: the largest weight that the client may have: its number of
      training samples.
    plausible: whether an honest client could have sent the message: a tree of
      bools, for its parts.
  """
  norm = _norm(result.message)
  fine = norm <= limit_of(monitor, max_norm)  # False for NaN, and infinity:
  fine &= jnp.isfinite(norm)
  weight = jnp.asarray(result.weight, jnp.float32)
  believed = (weight >= 0) & (weight <= jnp.asarray(samples, jnp.float32))
  for part in jax.tree.leaves(plausible):
    believed &= part
  fine &= believed
  losses = jnp.zeros(_BINS, jnp.int32)
  if "loss" in result.metrics:
    loss = jnp.asarray(result.metrics["loss"], jnp.float32)
    fine &= loss <= loss_limit_of(monitor, max_norm)
    losses = _bin(loss)
  fine &= sound(result.client)
  noted = ~monitor.calibrated | fine
  return Tally(
    jnp.float32(fine & monitor.calibrated),
    jnp.float32(~fine & monitor.calibrated),
    jnp.where(noted, _bin(norm), 0),
    jnp.where(noted, losses, 0),
    jnp.float32(~believed & jnp.isfinite(norm) & monitor.calibrated),
  )


def keep(condition: jax.Array, new: Any, old: Any) -> Any:
  """The new tree if the condition holds, else the old one."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def recorded(
  record: DivergenceRecord, tally: Tally, round_: Any
) -> DivergenceRecord:
  """One client's DivergenceRecord after a round that it took part in."""
  one = tally.diverged.astype(jnp.int32)
  streak = jnp.where(tally.heard > 0, 0, record.streak + one)
  return DivergenceRecord(
    record.undone + one,
    streak,
    jnp.maximum(record.longest, streak),
    jnp.where(tally.diverged > 0, round_, record.last),
  )


def _added(counts, more) -> jax.Array:
  counts = jnp.asarray(counts + more, jnp.int32)
  return jnp.where(jnp.sum(counts) > _MOST_COUNTS, counts // 2, counts)


def after_round(
  monitor: DivergenceMonitor,
  tally: Tally,
  num_clients: int,
  failed,
  round_,
  step: Any = 0.0,
) -> DivergenceMonitor:
  """The monitor after a round, or after the one that is run for norms alone.

  Args:
    monitor: before the round.
    tally: the sum over all clients.
    num_clients: of the federation.
    failed: whether the server's new state is not finite.
    round_: the round's number.
    step: the length of the server's step, see `server_step`.
  """
  alone = (tally.heard == 0) & (tally.diverged > 0)
  lost = jnp.where(tally.heard > 0, 0, monitor.lost + alone)
  # Counted only as far as needed, so that it cannot overflow.
  enough = IN_A_ROW * min(num_clients, _LOST_CLIENTS // IN_A_ROW)
  lost_clients = jnp.minimum(monitor.lost_clients + tally.diverged, enough)
  lost_clients = jnp.where(tally.heard > 0, 0, lost_clients)
  first = failed & (monitor.failed < 0)
  return DivergenceMonitor(
    _added(monitor.norms, tally.norms),
    _added(monitor.losses, tally.losses),
    jnp.bool_(True),
    monitor.undone + jnp.asarray(tally.diverged, jnp.int32),
    jnp.asarray(lost, jnp.int32),
    jnp.asarray(lost_clients, jnp.int32),
    monitor.over | ((lost >= IN_A_ROW) & (lost_clients >= enough)),
    jnp.asarray(jnp.where(first, round_, monitor.failed), jnp.int32),
    jnp.where(tally.heard > 0, step, monitor.server_step).astype(
      monitor.server_step.dtype
    ),
    monitor.refused + jnp.asarray(tally.refused, jnp.int32),
  )


class DivergenceReport(NamedTuple):
  """A client whose rounds were undone; see DivergenceRecord."""

  client: int
  undone: int
  streak: int
  longest: int
  last: int


def divergence_reports(members: Any, record: Any) -> list[DivergenceReport]:
  """Reports of all clients of which rounds were undone, by client.

  Args:
    members: {cohort: `[slots]`}, which client is in each slot.
    record: {cohort: DivergenceRecord}.
  """
  found = []
  for cohort, ids in members.items():
    columns = [np.asarray(x) for x in record[cohort]]
    ids = np.asarray(ids)
    for slot in np.flatnonzero((ids >= 0) & (columns[0] > 0)):
      found.append(
        DivergenceReport(int(ids[slot]), *(int(x[slot]) for x in columns))
      )
  return sorted(found)
