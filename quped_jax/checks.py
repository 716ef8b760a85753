"""Checks of what a user gives, in one dialect: "FIELD=VALUE: must be ..."."""

from collections.abc import Collection

import jax.numpy as jnp

# Of positive numbers that float32 holds in full.
SMALLEST = float(jnp.finfo(jnp.float32).tiny)
LARGEST = float(jnp.finfo(jnp.float32).max)


def unit_interval(field: str, value: float) -> None:
  """Raises a ValueError unless the value is in [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(f"{field}={value}: must be from 0 to 1")


def positive(field: str, value: float) -> None:
  """Raises a ValueError unless the value is positive, and is so in float32."""
  if not 0 < value < float("inf"):
    raise ValueError(f"{field}={value}: must be positive")
  if value < SMALLEST:
    raise ValueError(
      f"{field}={value}: must be at least {SMALLEST:.2g}, as less is 0 in "
      "float32"
    )


def not_negative(field: str, value: float) -> None:
  """Raises a ValueError unless the value is at least 0 and finite."""
  if not 0 <= value < float("inf"):
    raise ValueError(f"{field}={value}: must be at least 0")


def choice(field: str, value: str, allowed: Collection[str]) -> None:
  """Raises a ValueError unless the value is one of those allowed."""
  if value not in allowed:
    raise ValueError(f"{field}={value!r}: must be one of {', '.join(allowed)}")


def at_least(field: str, value: int, smallest: int) -> None:
  """Raises a ValueError unless the value is at least the smallest."""
  if value < smallest:
    raise ValueError(f"{field}={value}: must be at least {smallest}")
