"""Clients that diverge are found in the round in which it happens.

A client's round counts if its loss is finite and at most `LARGEST_LOSS`, all of
its new state is finite, and its message is not too long: its norm, over all
arrays of floating point, is at most a given limit, or else `TIMES_MEDIAN` times
the median of those of earlier rounds. SGD with too large a step often stays
finite for a while, with weights of 1e26; the norm tells.

Only sums cross between clients and devices. The median is therefore that of a
histogram of all norms so far, four bins to an octave, and exact to the width
of a bin. Before the first round there is none: the first round is run once
more, beforehand, for the norms alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LARGEST_LOSS = 1e6
TIMES_MEDIAN = 100.0

# Rounds in a row after which a client is reported, or a run is given up.
IN_A_ROW = 3

_PER_OCTAVE = 4
_BINS = 512
_MIDDLE = _BINS // 2  # The bin of 1.


class Watch(NamedTuple):
  """What is known of clients that diverged, int32 `[slots]`.

  Attributes:
    undone: how many of a client's rounds were undone.
    streak: how many of these in a row, up to the last that it took part in.
    longest: the longest streak.
    last: the last round that was undone; -1 for none.
  """

  undone: Any
  streak: Any
  longest: Any
  last: Any


class Health(NamedTuple):
  """What the server knows of it.

  Attributes:
    norms: int32 `[bins]`, how many messages had norms in each bin.
    calibrated: bool `[]`, whether the first round may begin.
    undone: int32 `[]`, rounds of clients that were undone, of all clients.
    lost: int32 `[]`, for how many rounds in a row everyone diverged who took
      part.
  """

  norms: Any
  calibrated: Any
  undone: Any
  lost: Any


class Verdict(NamedTuple):
  """What is said of one client's round.

  Attributes:
    counts: bool `[]`, whether its state is kept and its message heard.
    diverged: bool `[]`.
    norms: int32 `[bins]`, its message's norm.
  """

  counts: jax.Array
  diverged: jax.Array
  norms: jax.Array


def new_watch(slots: int) -> Watch:
  """Nobody has diverged yet."""
  nothing = jnp.zeros(slots, jnp.int32)
  return Watch(nothing, nothing, nothing, nothing - 1)


def new_health(calibrated: bool) -> Health:
  """No message was heard yet.

  Args:
    calibrated: whether the first round needs no norms.
  """
  nothing = jnp.int32(0)
  return Health(
    jnp.zeros(_BINS, jnp.int32), jnp.bool_(calibrated), nothing, nothing
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


def _bin(norm: jax.Array) -> jax.Array:
  """One in the bin of a norm; nothing for zero and what is not finite."""
  known = jnp.isfinite(norm) & (norm > 0)
  place = jnp.floor(_PER_OCTAVE * jnp.log2(jnp.where(known, norm, 1.0)))
  place = jnp.clip(place.astype(jnp.int32) + _MIDDLE, 0, _BINS - 1)
  return ((jnp.arange(_BINS) == place) & known).astype(jnp.int32)


def median(norms: jax.Array) -> jax.Array:
  """The median of the norms of a histogram: the upper end of its bin.

  Args:
    norms: int32 `[bins]`.

  Returns:
    float32 `[]`; infinite if there are none.
  """
  below = jnp.cumsum(norms)
  place = jnp.argmax(2 * below >= below[-1])
  value = jnp.exp2((place + 1 - _MIDDLE) / _PER_OCTAVE)
  return jnp.where(below[-1] > 0, value, jnp.inf).astype(jnp.float32)


def limit_of(health: Health, max_norm: float) -> jax.Array:
  """The norm that messages of a round may have, float32 `[]`.

  Args:
    health: before the round.
    max_norm: a limit that was given; 0 for none.
  """
  if max_norm:
    return jnp.float32(max_norm)
  return TIMES_MEDIAN * median(health.norms)


def judge(result: Any, health: Health, max_norm: float) -> Verdict:
  """Whether a client's round counts.

  Args:
    result: its ClientResult; its loss is among the metrics, if it has one.
    health: before the round.
    max_norm: of a message; 0 for the running median's.
  """
  norm = _norm(result.message)
  fine = norm <= limit_of(health, max_norm)  # False for NaN, and infinity:
  fine &= jnp.isfinite(norm)
  fine &= jnp.isfinite(jnp.asarray(result.weight, jnp.float32))
  if "loss" in result.metrics:
    fine &= result.metrics["loss"] <= LARGEST_LOSS
  for x in _floats(result.client):
    fine &= jnp.all(jnp.isfinite(x))
  heard = ~health.calibrated | fine
  return Verdict(
    fine & health.calibrated,
    ~fine & health.calibrated,
    jnp.where(heard, _bin(norm), 0),
  )


def keep(condition: jax.Array, new: Any, old: Any) -> Any:
  """The new tree where the condition holds, and else the old one."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def watched(watch: Watch, verdict: Verdict, round_: Any) -> Watch:
  """One client's Watch after a round that it took part in."""
  one = verdict.diverged.astype(jnp.int32)
  streak = jnp.where(verdict.counts, 0, watch.streak + one)
  return Watch(
    watch.undone + one,
    streak,
    jnp.maximum(watch.longest, streak),
    jnp.where(verdict.diverged, round_, watch.last),
  )


def after_round(health: Health, norms, count, diverged) -> Health:
  """The server's after a round, or after the one that is for norms alone.

  Args:
    health: before.
    norms: int32 `[bins]`, of messages.
    count: of clients that were heard.
    diverged: of clients that were not.
  """
  alone = (count == 0) & (diverged > 0)
  lost = jnp.where(count > 0, 0, health.lost + alone)
  return Health(
    jnp.asarray(health.norms + norms, jnp.int32),
    jnp.bool_(True),
    health.undone + jnp.asarray(diverged, jnp.int32),
    jnp.asarray(lost, jnp.int32),
  )


class Trouble(NamedTuple):
  """A client whose rounds were undone; see Watch."""

  client: int
  undone: int
  streak: int
  longest: int
  last: int


def troubles(members: Any, watch: Any) -> list[Trouble]:
  """All clients of which rounds were undone, in order.

  Args:
    members: {cohort: `[slots]`}, which client is in each slot.
    watch: {cohort: Watch}.
  """
  found = []
  for cohort, ids in members.items():
    columns = [np.asarray(x) for x in watch[cohort]]
    ids = np.asarray(ids)
    for slot in np.flatnonzero((ids >= 0) & (columns[0] > 0)):
      found.append(Trouble(int(ids[slot]), *(int(x[slot]) for x in columns)))
  return sorted(found)
