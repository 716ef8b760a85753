"""Differential privacy of the model that clients train together.

What a client sends, including both sets of batch-norm statistics, is clipped to
L2 norm C. The server sums the messages with weight 1 each, adds Gaussian noise
of standard deviation sigma C once to every coordinate of the sum, and divides
by the expected number of clients, no matter how many took part:

  w <- server_update(w, (sum_i clip(m_i, C) + sigma C N(0, I)) / sum_i q_i)

Statistics that belong to one precision are divided by the expected number of
clients of that precision, and no variance becomes negative by noise.

Client i takes part in a round independently with probability q_i. Rounds in
which no client takes part add noise too. So each round is a Gaussian mechanism
under Poisson sampling; the accountant of Google's dp-accounting composes the
privacy losses of all rounds, with the largest q_i for all clients.

The guarantee: to an observer of the server's models in all rounds, who knows
all other clients, the presence of a client is (epsilon, delta)-private.
Neighbours differ by one client, added or removed with all its samples. The
expected number of clients, of each precision too, counts as known.

Stragglers and drop-outs are covered, and so is compression, which ends before
messages are clipped: how a client arrives at its message does not matter, and
one that drops out takes part less often than q_i, for which epsilon takes no
credit.

Not covered:

* Models and levels that stay with clients, and what is computed from them.
* What clients and the server report (the number of participants, losses and
  accuracies in `metrics.jsonl`, `clients.csv` and `summary.json`), and choosing
  rounds or settings by it, as tuning does.
* The numbers of clients and of their samples, the public set, a warm start.
* The clients' messages in transit and at the server, which is trusted.
* The noise itself: it follows from `seed`, which `config.json` holds, and its
  generator is not cryptographic. Whoever knows the seed can remove the noise.
* The rounding of floating-point numbers, the noise among them: it is made of 23
  random bits, and never more than 5.5 standard deviations from zero.

Participation is exact: q_i is the chance that is drawn (`quped_jax.chances`).

References:
  McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent
  Language Models, 2018.
  Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, Deep Learning with
  Differential Privacy, 2016.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from quped_jax import chances as chances_lib
from quped_jax import random_keys
from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks.messages import clip, instead_of_mean

# Below it, one round with one client has an epsilon above 80 (delta 1e-5).
SMALLEST_NOISE = 0.1

# Above it, the tighter bound takes more time and memory than it is worth.
_MOST_EPSILON = 100.0


def check_delta(field: str, value: float) -> None:
  """Raises a ValueError unless delta is between 0 and 1."""
  if not 0 < value < 1:
    raise ValueError(f"{field}={value}: must be from 0 to 1, both excluded")


def check_noise(dp_clip: float, dp_noise: float) -> None:
  """Raises a ValueError unless noise and clipping go together.

  Args:
    dp_clip: C; 0 for no privacy.
    dp_noise: sigma.
  """
  if dp_noise and not dp_clip:
    raise ValueError(
      f"dp_noise={dp_noise}: must be 0 with dp_clip=0, since noise means "
      "nothing beside messages of any size"
    )
  if dp_clip and dp_noise < SMALLEST_NOISE:
    raise ValueError(
      f"dp_noise={dp_noise}: must be at least {SMALLEST_NOISE} with dp_clip="
      f"{dp_clip}; less protects nobody"
    )


def check_privacy(
  *,
  dp_clip: float,
  dp_delta: float,
  clients: int,
  participation: tuple[float, ...],
  weighting: str,
  method: str,
  aggregation: str,
  epochs: int,
) -> None:
  """Raises a ValueError unless the settings allow a guarantee; see `Settings`.

  Args:
    dp_clip: C; 0 for no privacy.
    dp_delta: delta.
    clients: the number of clients.
    participation: their probabilities of taking part.
    weighting: weights of the clients in the mean.
    method: the method that has this setting.
    aggregation: how messages are averaged.
    epochs: local epochs.
  """
  if not dp_clip:
    return
  field = f"dp_clip={dp_clip}"
  if dp_delta * clients >= 1:
    raise ValueError(
      f"dp_delta={dp_delta}: must be less than 1 / clients, {1 / clients:.3g}, "
      "which giving away one client whole would have"
    )
  if not participation:
    raise ValueError(
      f"participation=(): must be chances, such as (0.2,), with {field}: "
      "privacy is accounted for clients that take part by chance, each by "
      "itself, not for a number of them (clients_per_round) or a trace"
    )
  if weighting != "uniform":
    raise ValueError(
      f"{method}.weighting={weighting!r}: must be 'uniform' with {field}: no "
      "client may count more than another"
    )
  if aggregation != "mean":
    raise ValueError(
      f"aggregation={aggregation!r}: must be 'mean' with {field}, which clips "
      "messages and adds noise to their sum"
    )
  if epochs:
    raise ValueError(
      f"epochs={epochs}: must be 0 with {field}, since the number of steps "
      "would follow from the clients' data; set steps"
    )


def chances(participation: tuple[float, ...], clients: int) -> list[float]:
  """Each client's probability of taking part: the given ones in turn.

  They are those that are drawn, exactly.
  """
  drawn = [chances_lib.drawn(chance) for chance in participation]
  return [drawn[i % len(drawn)] for i in range(clients)]


def expected_by_precision(
  chances: Sequence[float], bits: Sequence[int]
) -> dict[int, float]:
  """The expected number of clients of each precision in a round.

  Args:
    chances: each client's probability of taking part.
    bits: each client's precision.
  """
  result: dict[int, float] = {}
  for chance, own in zip(chances, bits, strict=True):
    result[own] = result.get(own, 0.0) + chance
  return result


def with_privacy(
  method: api.FederatedMethod,
  *,
  bound: float,
  noise: float,
  expected: Mapping[int, float],
) -> api.FederatedMethod:
  """The method with clipped messages, and noise on their sum.

  Args:
    method: a method that `averages`; its weights are ignored.
    bound: C, the largest L2 norm of a message.
    noise: sigma; the noise on the sum has standard deviation sigma C.
    expected: {bits: the expected number of such clients in a round}. Sums are
      divided by the total; what is averaged by precision, by these numbers.
  """
  everyone = sum(expected.values())

  def receive(server, message, weight, context, cohort):
    del weight
    message = clip(message, bound)
    return method.receive(server, message, 1.0, context, cohort)

  def by_precision_of(received, sums):
    """Divided by expected numbers: who sent what must stay private."""
    precisions = received.weights.shape[0]
    numbers = [expected.get(bits, 0.0) for bits in range(1, precisions + 1)]
    return by_precision.ByPrecision(sums, jnp.asarray(numbers, jnp.float32))

  def server_update(server, aggregates, context):
    totals = [aggregate.total for aggregate in aggregates.values()]
    heard = jax.tree.map(lambda *parts: sum(parts), *totals)
    total = by_precision.map_parts(lambda t: t, lambda x: x.totals, heard)
    key = jax.random.fold_in(context.key, random_keys.PRIVACY_NOISE)
    noisy = jax.tree.map(
      lambda t, z: t + noise * bound * z,
      total,
      optax.tree.random_like(key, total, jax.random.normal),
    )
    mean = by_precision.map_parts(
      lambda t, sums: (sums / everyone).astype(t.dtype),
      by_precision_of,
      heard,
      noisy,
    )
    # Weight 1 always: whether anybody sent a message must stay private.
    new = instead_of_mean(aggregates, mean, 1.0)
    return method.server_update(server, new, context)

  return method.replace(receive=receive, server_update=server_update)


def check_installed() -> None:
  """Raises an ImportError that says how to get dp-accounting, if missing."""
  try:
    import dp_accounting  # noqa: F401
  except ImportError as error:
    raise ImportError(
      "dp_clip: needs the package dp-accounting, of the extra 'privacy': "
      "pip install dp-accounting"
    ) from error


@functools.lru_cache
def epsilon(noise: float, chance: float, rounds: int, delta: float) -> float:
  """Epsilon of all rounds: Gaussian mechanisms under Poisson sampling.

  Args:
    noise: sigma.
    chance: the probability that a client takes part in a round.
    rounds: the number of rounds.
    delta: delta of the guarantee.

  Returns:
    Epsilon, an upper bound.

  Raises:
    ImportError: dp-accounting is not installed.
  """
  check_installed()
  import dp_accounting
  from dp_accounting import pld, rdp

  event = dp_accounting.SelfComposedDpEvent(
    dp_accounting.PoissonSampledDpEvent(
      chance, dp_accounting.GaussianDpEvent(noise)
    ),
    rounds,
  )
  # Renyi divergences of integer orders: a cheap bound.
  orders = [*range(2, 64), 80, 96, 128, 192, 256, 512, 1024]
  bound = rdp.RdpAccountant(orders).compose(event).get_epsilon(delta)
  if bound > _MOST_EPSILON:
    return float(bound)
  # The privacy loss distribution: tighter, but the work grows with epsilon.
  closer = pld.PLDAccountant().compose(event).get_epsilon(delta)
  return float(min(bound, closer))


def guarantee(
  *,
  dp_clip: float,
  dp_noise: float,
  dp_delta: float,
  clients: int,
  participation: tuple[float, ...],
  rounds: int,
) -> dict[str, Any] | None:
  """A run's guarantee, for its summary; None without privacy.

  Raises:
    ImportError: dp-accounting is not installed.
  """
  if not dp_clip:
    return None
  own = chances(participation, clients)
  return {
    "epsilon": epsilon(dp_noise, max(own), rounds, dp_delta),
    "delta": dp_delta,
    "neighbours": "one client added or removed",
    "clip": dp_clip,
    "noise_multiplier": dp_noise,
    "sampling_probability": max(own),
    "expected_participants": sum(own),
    "rounds": rounds,
  }
