"""Every registered method, for tests that all have in common."""

import jax
import numpy as np
import pytest

from tests import tiny

COHORT = tiny.COHORT
CLIENTS = len(tiny.COUNTS)


# One of each family. To trace and compile a method's round takes most of the
# time of its tests; those of the others are slow ones. Every method has tests
# of its own.
FAMILIES = (
  "fedavg", "fedavg_ft", "scaffold", "ditto", "fml", "fd", "feddf", "fedgkt",
  "quped",
)  # fmt: skip


# One of each file in `methods/blocks`, with which methods are built.
BLOCKS = (
  "fedavg", "ditto", "fedrep", "fml", "fedgkd", "fd", "ds_fl", "feddf",
  "fedgkt", "fedgen", "fedcad", "fedproto", "fedrod", "fedaux", "cronus",
  "fedftg", "quped",
)  # fmt: skip


# One of each kind of exchange. What takes a program of its own, and is a
# property of the engine, is tested for these; `make test-long` has all.
EXCHANGES = (
  "fedavg", "ditto", "fedrep", "fd", "feddf", "fedgkt", "fedgen", "quped",
)  # fmt: skip


def over(names, fast=FAMILIES, slow=None):
  """Parametrizes a test by methods, or whatever else has a `name`.

  Args:
    names: of all of them.
    fast: those for which it is part of `make test`.
    slow: those of the others for which it is part of `make test-all`, and not
      of `make test-long`; None for all.
  """

  def marks(name):
    if name in fast:
      return ()
    whole = slow is None or name in slow
    return pytest.mark.slow if whole else pytest.mark.long

  return pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(name)) for name in names]
  )


each = over(tiny.METHODS)
of_exchanges = over(tiny.METHODS, slow=EXCHANGES)


def floats(tree):
  leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
  return [x for x in leaves if x.dtype.kind == "f"]


def equal(first, second):
  return all(
    np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    for a, b in zip(
      map(np.asarray, jax.tree.leaves(first)),
      map(np.asarray, jax.tree.leaves(second)),
      strict=True,
    )
  )
