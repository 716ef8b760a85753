"""Which tensors a run quantizes, in words: said when it begins."""

import jax
import numpy as np

from quped_jax.experiment.assemble import Assembly
from quped_jax.models import Model
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

_LISTED = 3  # Of more tensors, only the first and the last are named.


def notes(made: Assembly) -> list[str]:
  """A line for each network of the clients that train."""
  bits = made.assignment.bits
  return [
    _note(
      made.models.clients[cohort],
      made,
      np.unique(bits[members]).tolist(),
    )
    for cohort, (_, members) in made.cohorts().items()
  ]


def _note(model: Model, made: Assembly, bits: list[int]) -> str:
  text = codebook_lib.describe_bits(bits)
  if bits == [codebook_lib.FULL_PRECISION]:
    return f"quantized in {model.name}: nothing ({text})"
  params, _ = jax.eval_shape(
    model.init, jax.random.key(0), made.federation.example()
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  sizes = {codebook_tree.path_name(path): x.size for path, x in leaves}
  chosen = [name for name in sizes if model.is_quantized(name)]
  listed = ", ".join(chosen)
  if len(chosen) > _LISTED:
    listed = f"{len(chosen)} tensors, {chosen[0]} to {chosen[-1]}"
  weights = sum(sizes[name] for name in chosen)
  return (
    f"quantized in {model.name}: {listed}; {weights:,} of "
    f"{sum(sizes.values()):,} weights ({text})"
  )
