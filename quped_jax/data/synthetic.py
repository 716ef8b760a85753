"""Synthetic data for scaling studies: drawn when needed, never stored."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks, random_keys, scalars


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SyntheticSource:
  """Gaussian features around one mean per class, for any number of clients.

  A sample is a pure function of (seed, client, row).
  Rows `0 .. train_samples - 1` of a client are its training data, the
  `test_samples` rows after them its test data.

  Attributes:
    seed: Non-negative integer below 2**31, or an integer array. It is not
      static, so that another seed does not recompile.
    num_classes: Number of classes.
    shape: Shape of one input.
    noise: Standard deviation of a feature around its class mean; the means
      themselves have standard deviation 1.
    classes_per_client: How many of the classes each client holds. None: all.
    train_samples: Training samples of each client.
    test_samples: Test samples of each client.

  Raises:
    ValueError: If a field is out of range; the message names it.
  """

  seed: int | jax.Array
  num_classes: int = dataclasses.field(default=10, metadata={"static": True})
  shape: tuple[int, ...] = dataclasses.field(
    default=(32,), metadata={"static": True}
  )
  noise: float = dataclasses.field(default=1.0, metadata={"static": True})
  classes_per_client: int | None = dataclasses.field(
    default=None, metadata={"static": True}
  )
  train_samples: int = dataclasses.field(default=100, metadata={"static": True})
  test_samples: int = dataclasses.field(default=20, metadata={"static": True})

  def __post_init__(self):
    # A transformation may put anything in its place.
    if isinstance(self.seed, (int, np.integer)) and not 0 <= self.seed < 2**31:
      raise ValueError(f"seed={self.seed}: must be between 0 and 2**31 - 1")
    self._normalize()
    if not self.shape or min(self.shape) < 1:
      raise ValueError(f"shape={self.shape}: must be positive sizes")
    if not 0 <= self.noise < float("inf"):
      raise ValueError(f"noise={self.noise}: must be finite, not negative")
    held = self.classes_per_client
    if held is not None and not 1 <= held <= self.num_classes:
      raise ValueError(
        f"classes_per_client={held}: must be between 1 and "
        f"{self.num_classes}, the number of classes"
      )

  def _normalize(self):
    """Makes Python's numbers of all static fields, or raises."""
    for field, smallest in (
      ("num_classes", 2),
      ("train_samples", 1),
      ("test_samples", 1),
    ):
      number = checks.whole(field, getattr(self, field), smallest)
      object.__setattr__(self, field, number)
    if self.classes_per_client is not None:
      held = checks.whole("classes_per_client", self.classes_per_client)
      object.__setattr__(self, "classes_per_client", held)
    object.__setattr__(self, "noise", checks.number("noise", self.noise))
    try:
      shape = scalars.several(scalars.whole)(self.shape)
    except TypeError:
      raise ValueError(
        f"shape={checks.shown(self.shape)}: must be whole numbers"
      ) from None
    object.__setattr__(self, "shape", shape)

  def class_means(self) -> jax.Array:
    """Returns the mean of each class, `[num_classes, *shape]` float32."""
    return jax.random.normal(
      self._stream(random_keys.SYNTHETIC_MEANS),
      (self.num_classes, *self.shape),
      jnp.float32,
    )

  def client_classes(self, client_id: int | jax.Array) -> jax.Array:
    """Returns the classes that a client holds, `[classes_per_client]` int32."""
    key = jax.random.fold_in(
      self._stream(random_keys.SYNTHETIC_CLASSES), client_id
    )
    order = jax.random.permutation(key, self.num_classes)
    return order[: self.classes_per_client].astype(jnp.int32)

  def draw(
    self, client_id: int | jax.Array, rows: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Draws samples of one client; all arguments may be traced.

    Args:
      client_id: Number of the client.
      rows: `[rows]` integers, which samples. A client's classes take turns
        over its rows, so that it holds equally many of each.

    Returns:
      inputs `[rows, *shape]` float32 and labels `[rows]` int32.
    """
    rows = jnp.asarray(rows)
    classes = self.client_classes(client_id)
    labels = classes[rows % len(classes)]
    client_key = jax.random.fold_in(
      self._stream(random_keys.SYNTHETIC_NOISE), client_id
    )

    def draw_noise(row):
      key = jax.random.fold_in(client_key, row)
      return jax.random.normal(key, self.shape, jnp.float32)

    noise = jax.vmap(draw_noise)(rows)
    return self.class_means()[labels] + self.noise * noise, labels

  def _stream(self, number):
    return jax.random.fold_in(jax.random.key(self.seed), number)
