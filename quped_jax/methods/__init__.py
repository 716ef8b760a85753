"""Federated methods: their interface, what they share, and their registry."""

from quped_jax.methods import api
from quped_jax.methods.registry import (
  METHODS,
  Entry,
  get_method,
  option_called,
  register_method,
)

__all__ = [
  "METHODS",
  "Entry",
  "api",
  "get_method",
  "option_called",
  "register_method",
]
