"""Schemes: who owns each sample of a dataset.

A scheme gives every sample one owner, so that no sample can go to two clients.
To add one, write its function and add it to `SCHEMES`; and to
`WITHOUT_CLASSES`, if it does not ask for classes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np

NOBODY = -1

_LARGEST_ALPHA = 1e300
# A partition is another one than was asked for if more than this share of its
# samples was moved, or more than this share of its clients got some.
_MOST_MOVED, _MOST_TOPPED_UP = 0.01, 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """What a scheme divides, and among how many clients.

  Attributes:
    name: Name of the dataset.
    labels: `[samples]`, the classes; all alike if there are none.
    groups: `[samples]`, the natural owners, or None.
    num_clients: Number of clients.
    classes_per_client: For "pathological" and "label_quantity".
    alpha: For "dirichlet" and "quantity".
    min_size: Likewise.
    self_balancing: For "dirichlet".
    shards_per_client: For "shards".
    groups_per_client: For "natural".
  """

  name: str
  labels: np.ndarray
  groups: np.ndarray | None
  num_clients: int
  classes_per_client: int | None
  alpha: float | None
  min_size: int
  self_balancing: bool
  shards_per_client: int | None
  groups_per_client: int | None


Scheme = Callable[[Pool, np.random.Generator], np.ndarray]


def _iid(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  return rng.permutation(len(pool.labels)) % pool.num_clients


def _pathological(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  classes, per_client = _classes_of_each(pool, "pathological")
  if pool.num_clients * per_client < len(classes):
    raise ValueError(
      f"classes_per_client={per_client}: must be at least "
      f"{-(-len(classes) // pool.num_clients)}, or some of the {len(classes)} "
      f"classes in {pool.name!r} have no holder among the {pool.num_clients} "
      "clients"
    )
  # Each client takes the classes with the fewest holders so far, ties at
  # random: the numbers of holders never differ by more than one.
  holders = [[] for _ in classes]
  for client in rng.permutation(pool.num_clients):
    counts = np.array([len(clients) for clients in holders])
    for index in np.lexsort((rng.random(len(classes)), counts))[:per_client]:
      holders[index].append(client)
  return _split_evenly(pool, classes, holders, rng)


def _label_quantity(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  classes, per_client = _classes_of_each(pool, "label_quantity")
  if pool.num_clients < len(classes):
    raise ValueError(
      f"clients={pool.num_clients}: must be at least {len(classes)}, the "
      f"number of classes in {pool.name!r}, with partition='label_quantity'"
    )
  holders = [[] for _ in classes]
  for client in range(pool.num_clients):
    own = client % len(classes)
    others = np.delete(np.arange(len(classes)), own)
    for index in (own, *rng.permutation(others)[: per_client - 1]):
      holders[index].append(client)
  return _split_evenly(pool, classes, holders, rng)


def _classes_of_each(pool: Pool, scheme: str) -> tuple[np.ndarray, int]:
  """All classes, and how many of them each client holds."""
  classes = np.unique(pool.labels)
  per_client = _required(pool, scheme, "classes_per_client")
  if not 1 <= per_client <= len(classes):
    raise ValueError(
      f"classes_per_client={per_client}: must be between 1 and {len(classes)}, "
      f"the number of classes in {pool.name!r}"
    )
  return classes, per_client


def _split_evenly(
  pool: Pool,
  classes: np.ndarray,
  holders: list[list[int]],
  rng: np.random.Generator,
) -> np.ndarray:
  """Owners, where the samples of a class are split among its holders."""
  owner = np.empty(len(pool.labels), int)
  for label, clients in zip(classes, holders, strict=True):
    rows = rng.permutation(np.flatnonzero(pool.labels == label))
    if len(rows) < len(clients):
      raise ValueError(
        f"clients={pool.num_clients}: must be less, as class {label} of "
        f"{pool.name!r} has {len(rows)} samples for {len(clients)} holders"
      )
    owner[rows] = np.array(clients)[np.arange(len(rows)) % len(clients)]
  return owner


def _dirichlet(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  alpha = _concentration(pool, "dirichlet")
  held = [[] for _ in range(pool.num_clients)]
  for label in np.unique(pool.labels):
    rows = rng.permutation(np.flatnonzero(pool.labels == label))
    shares = np.zeros(pool.num_clients)
    getting = _getting(pool, held)
    shares[getting] = rng.dirichlet(np.full(len(getting), alpha))
    ends = np.cumsum(rng.multinomial(len(rows), shares))
    for client, part in enumerate(np.split(rows, ends[:-1])):
      held[client].extend(part)
  return _topped_up(pool, "dirichlet", held, rng)


def _getting(pool: Pool, held: list[list[int]]) -> np.ndarray:
  """The clients that get samples of the next class.

  To set the shares of the others to zero and to divide by the sum of the rest
  is the same as to draw for these alone: a Dirichlet distribution given some of
  its shares is one over the others.
  """
  everyone = np.arange(pool.num_clients)
  if not pool.self_balancing:
    return everyone
  sizes = np.array([len(rows) for rows in held])
  return everyone[sizes < len(pool.labels) / pool.num_clients]


def _quantity(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  alpha = _concentration(pool, "quantity")
  shares = rng.dirichlet(np.full(pool.num_clients, alpha))
  rows = rng.permutation(len(pool.labels))
  ends = np.cumsum(rng.multinomial(len(rows), shares))
  held = [list(part) for part in np.split(rows, ends[:-1])]
  return _topped_up(pool, "quantity", held, rng)


def _concentration(pool: Pool, scheme: str) -> float:
  """The alpha of a Dirichlet distribution; checks `min_size` too."""
  alpha = _required(pool, scheme, "alpha")
  if not 0 < alpha < np.inf:
    raise ValueError(f"alpha={alpha}: must be positive and finite")
  most = len(pool.labels) // pool.num_clients
  if not 1 <= pool.min_size <= most:
    raise ValueError(
      f"min_size={pool.min_size}: must be between 1 and {most}, the samples in "
      f"{pool.name!r} divided by {pool.num_clients} clients"
    )
  # All shares are equal there; the sum of larger numbers is infinite.
  return min(alpha, _LARGEST_ALPHA)


def _topped_up(
  pool: Pool, scheme: str, held: list[list[int]], rng: np.random.Generator
) -> np.ndarray:
  """The owners once every client has `min_size` samples.

  Whenever a client has too few, the largest has some to give.
  """
  for rows in held:
    rng.shuffle(rows)
  sizes = np.array([len(rows) for rows in held])
  too_few = np.flatnonzero(sizes < pool.min_size)
  moved = int((pool.min_size - sizes[too_few]).sum())
  _check_moved(pool, scheme, len(too_few), moved)
  for client in too_few:
    while sizes[client] < pool.min_size:
      donor = sizes.argmax()
      held[client].append(held[donor].pop())
      sizes[donor] -= 1
      sizes[client] += 1
  owner = np.empty(len(pool.labels), int)
  owner[np.concatenate(held).astype(int)] = np.repeat(
    np.arange(pool.num_clients), sizes
  )
  return owner


def _check_moved(pool: Pool, scheme: str, clients: int, moved: int) -> None:
  """Warns of a partition that is no longer what was asked for."""
  share = moved / len(pool.labels)
  if share > _MOST_MOVED or clients > _MOST_TOPPED_UP * pool.num_clients:
    warnings.warn(
      f"partition={scheme!r}: {clients} of {pool.num_clients} clients had "
      f"fewer than min_size={pool.min_size} samples and got {moved} of all "
      f"{len(pool.labels)} ({100 * share:.2g} %) from others, so that this is "
      f"no longer the partition of alpha={pool.alpha}. Fewer clients, a "
      "smaller min_size or a larger alpha change less of it",
      stacklevel=5,
    )


def _shards(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  per_client = _required(pool, "shards", "shards_per_client")
  most = len(pool.labels) // pool.num_clients
  if not 1 <= per_client <= most:
    raise ValueError(
      f"shards_per_client={per_client}: must be between 1 and {most}, the "
      f"samples in {pool.name!r} divided by {pool.num_clients} clients"
    )
  by_label = np.lexsort((rng.random(len(pool.labels)), pool.labels))
  shards = np.array_split(by_label, pool.num_clients * per_client)
  owner = np.empty(len(pool.labels), int)
  for place, shard in enumerate(rng.permutation(len(shards))):
    owner[shards[shard]] = place // per_client
  return owner


def checked_groups(name: str, groups: np.ndarray | None) -> np.ndarray:
  """The groups; raises a ValueError if the dataset has none."""
  if groups is None:
    raise ValueError(
      f"partition='natural': must be one of "
      f"{', '.join(sorted(set(SCHEMES) - {'natural'}))} for {name!r}, which "
      "does not say whose its samples are, as from_arrays(..., client=ids) can"
    )
  return groups


def _natural(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  per_client = _required(pool, "natural", "groups_per_client")
  owners = checked_groups(pool.name, pool.groups)
  groups, group_of_row = np.unique(owners, return_inverse=True)
  if not 1 <= per_client <= len(groups) // pool.num_clients:
    raise ValueError(
      f"groups_per_client={per_client}: must be at least 1, and times "
      f"{pool.num_clients} clients at most {len(groups)}, the number of groups "
      f"in {pool.name!r}"
    )
  client_of_group = rng.permutation(len(groups)) // per_client
  client_of_group[client_of_group >= pool.num_clients] = NOBODY
  return client_of_group[group_of_row]


# A scheme returns the owner of each sample of the pool: the number of a client,
# or -1 for nobody.
SCHEMES: dict[str, Scheme] = {
  "iid": _iid,
  "pathological": _pathological,
  "label_quantity": _label_quantity,
  "dirichlet": _dirichlet,
  "quantity": _quantity,
  "shards": _shards,
  "natural": _natural,
}

# Those that divide samples whose targets are no classes too.
WITHOUT_CLASSES = ("iid", "quantity", "natural")


def _required(pool, scheme, option):
  value = getattr(pool, option)
  if value is None:
    raise ValueError(f"{option}=None: must be given for partition={scheme!r}")
  return value
