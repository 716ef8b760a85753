"""What people call methods and runs: "QuPeD, 1 bit" and not "quped_1"."""

import sys
from collections.abc import Sequence

from quped_jax.methods.registry import BUILT_IN, METHODS
from quped_jax.quantization import codebook


def of_method(name: str) -> str:
  """What people call a method, such as "QuPeD" or "FedAvg with fine-tuning".

  It is how the docstring of the method's file begins. A method from outside the
  package, or a variant that a comparison defines, is called by its name.

  Args:
    name: as settings name it.
  """
  entry = BUILT_IN.get(name)
  if entry is None or METHODS.get(name) != entry:
    return name
  first = (sys.modules[entry.make.__module__].__doc__ or "").partition("\n")[0]
  title = first.partition(":")[0].partition(",")[0]
  return title or name  # Python may run without docstrings.


def of_run(method: str, bits: Sequence[int]) -> str:
  """What people call a run: "QuPeD, 1 bit", "Local training, 32 bits".

  Args:
    method: as settings name it.
    bits: precisions that the clients have in turn.
  """
  return f"{of_method(method)}, {codebook.describe_bits(bits)}"
