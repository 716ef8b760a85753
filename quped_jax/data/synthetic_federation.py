"""A federation of synthetic data, of any number of clients."""

import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data import SyntheticSource
from quped_jax.data.federation import Federation, Split


def synthetic_federation(
  source: SyntheticSource, num_clients: int, *, validation_fraction: float = 0.0
) -> Federation:
  """A federation whose samples are made when they are drawn.

  Args:
    source: of the samples; it sets their number per client.
    num_clients: any number; only two counters per split are stored for each.
    validation_fraction: share of the training samples, the last ones, set
      aside for validation; in [0, 1).

  Raises:
    ValueError: a fraction out of range.
  """
  num_clients = checks.whole("num_clients", num_clients, 1)
  validation_fraction = checks.number(
    "validation_fraction", validation_fraction
  )
  if not 0 <= validation_fraction < 1:
    raise ValueError(
      f"validation_fraction={validation_fraction}: must be in [0, 1)"
    )
  held_out = int(validation_fraction * source.train_samples)
  trained = source.train_samples - held_out

  def split(begin, count):
    return Split(
      rows=None,
      offset=jnp.full(num_clients, begin, jnp.int32),
      count=jnp.full(num_clients, count, jnp.int32),
      max_count=count,
    )

  return Federation(
    source=source,
    train=split(0, trained),
    validation=split(trained, held_out),
    test=split(source.train_samples, source.test_samples),
    num_clients=num_clients,
    num_classes=source.num_classes,
    name="synthetic",
  )
