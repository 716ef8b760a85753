"""Who holds which samples: one pool of samples, row numbers per client.

All samples are stored once, in one array; each client has a range of a table of
row numbers (offset and count, so nothing is padded to the largest client).
Batches are drawn inside jit, for one client at a time: `vmap` or a loop over
`Federation.client(i)` adds the client axis.

A federation is made in host memory, where samples may be mapped from a file;
`quped_jax.simulation.placement` moves it to the devices.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks
from quped_jax.data import Dataset, Partition, targets
from quped_jax.data import augment as augment_lib
from quped_jax.data import partition as partition_fn
from quped_jax.data.partition import checked_partition
from quped_jax.short_repr import short_repr

SPLITS = ("train", "validation", "test")

# In host memory, or on a device.
Array = np.ndarray | jax.Array


class Batch(NamedTuple):
  """Samples that a model sees together.

  Attributes:
    inputs: `[batch, ...]`, float and normalised.
    labels: int32 `[batch]`; or `[batch, width]`, float32 values or bools.
    key: the batch's random key in training, for networks that draw random
      numbers; None if there is none.
  """

  inputs: jax.Array
  labels: jax.Array
  key: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
  """All samples of a dataset, from which clients draw rows.

  Attributes:
    inputs: `[samples, ...]`, uint8 or float.
    labels: int32 `[samples]`, or others, see `quped_jax.data.targets`.
    mean: subtracted from the inputs when they are drawn.
    std: what they are then divided by.
  """

  inputs: Array
  labels: Array
  mean: Array
  std: Array

  def draw(self, client_id, rows) -> tuple[jax.Array, jax.Array]:
    """Inputs `[len(rows), ...]`, normalised, and labels of the given rows."""
    del client_id  # Rows are those of the pool.
    raw = jnp.asarray(self.inputs).at[rows].get(mode="promise_in_bounds")
    labels = jnp.asarray(self.labels).at[rows].get(mode="promise_in_bounds")
    return (raw - jnp.asarray(self.mean)) / self.std, labels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Split:
  """The row numbers of one split, of all clients or of one.

  Attributes:
    rows: int32 `[total]`, the row numbers of one client after the other; None
      if a client's are simply consecutive, from its offset on.
    offset: int32 `[clients]`, or `[]` for one client: where its rows begin.
    count: int32, likewise: how many rows it has.
    max_count: the largest count of any client, static.
  """

  rows: Array | None
  offset: Array
  count: Array
  max_count: int = dataclasses.field(metadata={"static": True})

  def of_client(self, client_id) -> Split:
    """The split of one client."""
    return dataclasses.replace(
      self,
      offset=jnp.asarray(self.offset)[client_id],
      count=jnp.asarray(self.count)[client_id],
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClientData:
  """One client's samples.

  Attributes:
    source: draws samples by client and row: a `Pool`, or a synthetic source.
    client_id: int32 `[]`.
    train: the Split of its training samples.
    validation: the Split of its validation samples, possibly empty.
    test: the Split of its test samples.
    augment: name of the augmentation of training batches, static.
  """

  source: Any
  client_id: jax.typing.ArrayLike
  train: Split
  validation: Split
  test: Split
  augment: str = dataclasses.field(metadata={"static": True})

  def batch(self, positions: jax.Array, split: str = "train") -> Batch:
    """The samples at positions in `[0, count)` of a split."""
    part: Split = getattr(self, split)
    rows = part.offset + positions
    if part.rows is not None:
      rows = jnp.asarray(part.rows).at[rows].get(mode="clip")
    return Batch(*self.source.draw(self.client_id, rows))

  def train_batch(self, key: jax.Array, positions: jax.Array) -> Batch:
    """A training batch, augmented, with the key as its own."""
    batch = self.batch(positions)
    augment = augment_lib.AUGMENTATIONS[self.augment]
    return batch._replace(inputs=augment(key, batch.inputs), key=key)

  def draw(self, key: jax.Array, steps: int, batch_size: int) -> jax.Array:
    """Positions of the training batches of a round.

    Every epoch is a permutation of the samples, whose last, partial batch is
    dropped. A client with less than one batch draws with replacement. The
    positions depend only on the key and the client's own number of samples, not
    on other clients.

    One sort of `2 * steps * batch_size + max_count` pairs per round.

    Args:
      key: a key.
      steps: number of batches.
      batch_size: samples per batch.

    Returns:
      int32 `[steps, batch_size]`.

    Raises:
      ValueError: too many samples to be counted.
    """
    check_batches(f"steps={steps}", steps, batch_size)
    count = jnp.maximum(self.train.count, 1)
    per_epoch = jnp.maximum(count // batch_size, 1)
    # A client of n >= batch_size samples uses more than half of each epoch,
    # and begins at most one epoch that it does not finish.
    slots = 2 * steps * batch_size + self.train.max_count
    key, replace_key = jax.random.split(key)
    slot = jnp.arange(slots, dtype=jnp.int32)
    # Bits by slot number: a longer table begins with the same bits.
    bits = jax.random.bits(key, (slots,), jnp.uint32)
    epoch, sample = slot // count, slot % count
    _, _, shuffled = jax.lax.sort((epoch, bits, sample), num_keys=2)
    step = jnp.arange(steps, dtype=jnp.int32)
    start = (step // per_epoch) * count + (step % per_epoch) * batch_size
    in_batch = jnp.arange(batch_size, dtype=jnp.int32)
    where = start[:, None] + in_batch[None]
    in_order = shuffled.at[where].get(mode="clip")
    uniform = jax.random.bits(replace_key, (steps, batch_size), jnp.uint32)
    replaced = (uniform % count.astype(jnp.uint32)).astype(jnp.int32)
    return jnp.where(count < batch_size, replaced, in_order)


# Twice this number plus a client's samples must fit int32.
_MOST_DRAWN = 2**29


def check_batches(what: str, steps: int, batch_size: int) -> None:
  """Raises a ValueError unless a client can draw that many batches at once.

  Args:
    what: names their number in the message, such as "steps=40".
    steps: number of batches.
    batch_size: samples per batch.
  """
  if steps * batch_size > _MOST_DRAWN:
    raise ValueError(
      f"{what}: must be fewer; {steps} batches of batch_size={batch_size} are "
      f"more than {_MOST_DRAWN} samples"
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PublicSet:
  """Samples that the server and all clients know, and no client owns.

  Attributes:
    source: the Pool of these samples alone; `targets.unknown` ones if need be.
    labelled: whether they have labels, static.
  """

  source: Pool
  labelled: bool = dataclasses.field(metadata={"static": True})

  @property
  def size(self) -> int:
    """The number of samples, static."""
    return self.source.labels.shape[0]

  def data(self, labels: Any = None, rows: Any = None) -> ClientData:
    """The samples as training data, perhaps with other labels.

    Args:
      labels: `[size, ...]`, such as soft ones; None for the set's own.
      rows: int32 `[count]`, which samples to keep; None for all.
    """
    count = self.size if rows is None else rows.shape[0]
    part = Split(rows, jnp.int32(0), jnp.int32(count), count)
    nothing = Split(None, jnp.int32(0), jnp.int32(0), 0)
    source = self.source
    if labels is not None:
      source = dataclasses.replace(source, labels=labels)
    return ClientData(source, jnp.int32(-1), part, nothing, nothing, "none")


def make_public(dataset: Dataset, rows: Any, *, labelled: bool) -> PublicSet:
  """Makes a public set from some samples of a dataset.

  Args:
    dataset: the samples.
    rows: `[size]`, which samples.
    labelled: whether their labels are known.
  """
  labels = np.asarray(dataset.labels)[rows]
  pool = Pool(
    inputs=jnp.asarray(np.asarray(dataset.inputs)[rows]),
    labels=jnp.asarray(labels if labelled else targets.unknown(labels)),
    mean=jnp.asarray(dataset.mean, jnp.float32),
    std=jnp.asarray(dataset.std, jnp.float32),
  )
  return PublicSet(pool, labelled)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("source", *SPLITS, "public"),
  meta_fields=("num_clients", "num_classes", "name", "augment"),
  drop_fields=("groups",),
)
@dataclasses.dataclass(frozen=True)
class Federation:
  """The samples of all clients; a pytree that a jitted round takes.

  Attributes:
    source: draws samples by client and row.
    train: the Split of all clients' training samples.
    validation: the Split of their validation samples.
    test: the Split of their test samples.
    num_clients: static.
    num_classes: static.
    name: of the dataset, static.
    augment: name of the augmentation of training batches, static.
    public: the PublicSet; None without one.
    groups: names of the groups that each client has samples of, `[clients]`;
      None if clients share groups, or there are none. Not part of the pytree:
      nothing follows from names.

  Examples:
    >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
    >>> data = qj.from_arrays(inputs, np.arange(40) % 2)
    >>> federation = qj.make_federation(data, qj.partition(data, "iid", 4))
    >>> federation.num_clients, federation.train.count.tolist()
    (4, [5, 5, 5, 5])
    >>> federation.client(3).batch(jnp.arange(2)).inputs.shape
    (2, 5)
  """

  source: Any
  train: Split
  validation: Split
  test: Split
  num_clients: int = dataclasses.field(metadata={"static": True})
  num_classes: int = dataclasses.field(metadata={"static": True})
  name: str = dataclasses.field(metadata={"static": True})
  augment: str = dataclasses.field(default="none", metadata={"static": True})
  public: PublicSet | None = None
  groups: tuple[tuple[str, ...], ...] | None = None

  __repr__ = short_repr

  def client(self, client_id: jax.typing.ArrayLike) -> ClientData:
    """One client's view; `client_id` may be traced."""
    parts = {name: getattr(self, name).of_client(client_id) for name in SPLITS}
    return ClientData(
      source=self.source, client_id=client_id, augment=self.augment, **parts
    )

  def first(self, num_clients: int) -> Federation:
    """The federation with its first clients only."""
    parts = {}
    for name in SPLITS:
      part = getattr(self, name)
      parts[name] = dataclasses.replace(
        part, offset=part.offset[:num_clients], count=part.count[:num_clients]
      )
    return dataclasses.replace(self, num_clients=num_clients, **parts)

  def example(self) -> jax.Array:
    """Zeros like the inputs of one sample, `[1, ...]`, to initialise models.

    No sample is read: not every device, or process, has all clients' samples.
    """
    shape = jax.eval_shape(
      lambda x: x.client(0).batch(jnp.zeros(1, jnp.int32)).inputs, self
    )
    return jnp.zeros(shape.shape, shape.dtype)


def _table(parts: tuple[np.ndarray, ...]) -> Split:
  counts = np.array([len(part) for part in parts], np.int32)
  offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
  rows = np.concatenate([*parts, np.zeros(0, np.int32)]).astype(np.int32)
  if not rows.size:
    rows = np.zeros(1, np.int32)  # An entry for lookups to clip to.
  return Split(rows, offsets, counts, max_count=int(counts.max()))


def make_federation(
  dataset: Dataset, partition: Partition | None = None, *, augment: str = "none"
) -> Federation:
  """Makes a federation from a dataset and its partition, in host memory.

  Args:
    dataset: the samples, which are not copied.
    partition: who holds which of them. None: each of the dataset's groups is a
      client, as with `quped_jax.partition(dataset, "natural")`.
    augment: "none" or "crop_flip", for training batches.

  Returns:
    The federation, which `run` and `sweep` take.

  Raises:
    ValueError: unknown augmentation; a client without training or test
      samples, or with rows that the dataset does not have; no partition of a
      dataset without groups.

  Examples:
    >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
    >>> data = qj.from_arrays(inputs, np.arange(40) % 2)
    >>> parts = qj.partition(data, "dirichlet", 4, alpha=9.0, min_size=2)
    >>> qj.make_federation(data, parts).num_classes
    2
  """
  checks.instance("dataset", dataset, Dataset, "from_arrays")
  if partition is None:
    if dataset.groups is None:
      raise ValueError(
        "partition=None: must be given, as quped_jax.partition makes it, for "
        f"{dataset.name!r}, which does not say whose its samples are, as "
        "from_arrays(..., client=ids) can"
      )
    partition = partition_fn(dataset, "natural")
  augment_lib.check_augment(augment, dataset.inputs.shape[1:])
  partition = checked_partition(partition, len(dataset.labels))
  pool = Pool(
    inputs=dataset.inputs,
    labels=dataset.labels,
    mean=np.asarray(dataset.mean, np.float32),
    std=np.asarray(dataset.std, np.float32),
  )
  return Federation(
    source=pool,
    train=_table(partition.train),
    validation=_table(partition.validation),
    test=_table(partition.test),
    num_clients=len(partition.train),
    num_classes=dataset.num_classes,
    name=dataset.name,
    augment=augment,
    groups=partition.groups,
  )
