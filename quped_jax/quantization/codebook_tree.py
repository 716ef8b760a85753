"""Trees of codebooks, with one codebook for each quantized tensor of a model.

A tree of codebooks mirrors the tree of parameters, with `optax.MaskedNode()`
where a tensor is not quantized.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.codebook import Codebook

_NNX_VALUE = jax.tree_util.GetAttrKey("value")


def is_codebook(node: Any) -> bool:
  """Whether a node is a leaf of a tree of codebooks."""
  return isinstance(node, (Codebook, optax.MaskedNode))


def map_codebooks(
  fn: Callable[..., Any],
  codebooks: Any,
  *trees: Any,
  otherwise: Callable[..., Any] = lambda *_: optax.MaskedNode(),
) -> Any:
  """Maps `fn(codebook, *leaves)` over a tree of codebooks.

  Args:
    fn: applied where there is a codebook.
    codebooks: a tree of codebooks.
    *trees: trees that have `codebooks` as a prefix.
    otherwise: applied to the leaves where there is none.
  """

  def visit(codebook, *leaves):
    chosen = fn if isinstance(codebook, Codebook) else otherwise
    args = (codebook, *leaves) if chosen is fn else leaves
    return chosen(*args)

  return jax.tree.map(visit, codebooks, *trees, is_leaf=is_codebook)


def codebook_leaves(codebooks: Any) -> list[Codebook]:
  """The codebooks of a tree; none if it is statically in full precision."""
  leaves = jax.tree.leaves(codebooks, is_leaf=is_codebook)
  return [leaf for leaf in leaves if isinstance(leaf, Codebook)]


def is_quantized(codebooks: Any) -> jax.Array:
  """Whether any tensor has levels, a bool scalar that may be traced."""
  leaves = codebook_leaves(codebooks)
  if not leaves:
    return jnp.asarray(False)
  return jnp.any(jnp.stack([jnp.any(c.levels > 0) for c in leaves]))


def path_name(path: Any) -> str:
  """A parameter's path as text, such as `hidden_1/kernel`.

  In the state of a flax NNX module the path leads on, to the attribute `value`
  of a variable, which is left out.
  """
  if len(path) > 1 and path[-1] == _NNX_VALUE:
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator="/")


def bits_of(bits: Any, name: str) -> Any:
  """The bits of a quantized parameter.

  Args:
    bits: of all; or a mapping from path patterns (as in `fnmatch`) to bits,
      where the first pattern that matches counts.
    name: the parameter's path, such as `hidden_1/kernel`.

  Raises:
    ValueError: a path that no pattern matches.
  """
  if not isinstance(bits, Mapping):
    return bits
  for pattern, value in bits.items():
    if fnmatch.fnmatchcase(name, pattern):
      return value
  raise ValueError(
    f"bits={dict(bits)}: no pattern matches the quantized {name!r}"
  )


def init_codebooks(
  params: Any,
  predicate: Callable[[str], bool],
  bits: int | jax.Array | Mapping[str, int],
  max_levels: int | None = None,
  *,
  granularity: str = "tensor",
  outer_level: float | None = None,
  initial_levels: str = "range",
) -> Any:
  """Codebooks for all parameters whose path the predicate accepts.

  Args:
    params: a tree of parameters.
    predicate: takes a path such as `hidden_1/kernel`.
    bits: as in `init_codebook`; or a mapping from path patterns (as in
      `fnmatch`) to bits, where the first pattern that matches counts.
    max_levels: as in `init_codebook`, common to all tensors; by default as many
      as the largest of `bits` needs.
    granularity: as in `init_codebook`.
    outer_level: as in `init_codebook`.
    initial_levels: as in `init_codebook`.

  Returns:
    A tree of codebooks, `optax.MaskedNode()` where the predicate says no.

  Raises:
    ValueError: no path is accepted, a path matches no pattern, or as in
      `init_codebook`.
  """
  if max_levels is None and not codebook_lib.is_traced(bits):
    each = list(bits.values()) if isinstance(bits, Mapping) else bits
    max_levels = codebook_lib.max_levels_for(each)

  names = []

  def init(path, x):
    name = path_name(path)
    names.append(name)
    if not predicate(name):
      return optax.MaskedNode()
    return codebook_lib.init_codebook(
      x,
      bits_of(bits, name),
      max_levels,
      granularity=granularity,
      outer_level=outer_level,
      initial_levels=initial_levels,
    )

  codebooks = jax.tree_util.tree_map_with_path(init, params)
  if not codebook_leaves(codebooks):
    raise ValueError(
      f"predicate: accepts none of the parameters {names}; at least one "
      "must be quantized"
    )
  return codebooks


def quantize_once(
  params: Any,
  predicate: Callable[[str], bool],
  bits: int | Mapping[str, int],
  *,
  granularity: str = "tensor",
  initial_levels: str = "kmeans",
) -> Any:
  """The parameters of a trained model, quantized without any training.

  Every weight goes to its nearest level. By k-means, the error is much smaller
  than with levels that are evenly spaced over the range of the weights
  (`initial_levels="range"`).

  Args:
    params: a tree of parameters.
    predicate: as in `init_codebooks`, as are all that follow.
    bits: likewise.
    granularity: likewise.
    initial_levels: likewise.

  Raises:
    ValueError: as in `init_codebooks`.
  """
  codebooks = init_codebooks(
    params,
    predicate,
    bits,
    granularity=granularity,
    initial_levels=initial_levels,
  )
  return hard_quantize_tree(params, codebooks)


def in_program(codebooks: Any, *, most: int | None, mixed: bool) -> Any:
  """The same codebooks, as those of a program's learners.

  Args:
    codebooks: a tree of codebooks, which stays as it is if nothing is known.
    most: see `Codebook`; None if nothing is known.
    mixed: see `Codebook`.
  """
  if most is None and not mixed:
    return codebooks
  return map_codebooks(
    lambda codebook: dataclasses.replace(codebook, most=most, mixed=mixed),
    codebooks,
  )


def check_most(codebooks: Any, most: int | None) -> None:
  """Raises a ValueError if a codebook is known to have more levels."""
  for codebook in codebook_leaves(codebooks):
    if most is None or codebook_lib.is_traced(codebook.levels):
      continue
    levels = int(np.max(codebook.levels, initial=0))
    if levels > most:
      raise ValueError(
        f"most={most}: must be at least {levels}, the levels of a codebook"
      )


def with_static(codebooks: Any, given: Any) -> Any:
  """The codebooks, with what is static of those at the same places.

  Args:
    codebooks: a tree of codebooks.
    given: a tree of the same structure, with the `most` and `mixed` to take.
  """
  return map_codebooks(
    lambda codebook, other: dataclasses.replace(
      codebook, most=other.most, mixed=other.mixed
    ),
    codebooks,
    given,
  )


def full_precision(params: Any) -> Any:
  """A tree of codebooks that is statically empty: nothing is quantized."""
  return jax.tree.map(lambda _: optax.MaskedNode(), params)


def hard_quantize_tree(
  params: Any, codebooks: Any, *, deterministic: bool = False
) -> Any:
  """`hard_quantize` of every tensor that has a codebook."""
  return map_codebooks(
    lambda codebook, x: codebook_lib.hard_quantize(
      x, codebook, deterministic=deterministic
    ),
    codebooks,
    params,
    otherwise=lambda x: x,
  )


def get_centers(codebooks: Any) -> Any:
  """The centers of all codebooks, which an optimizer of levels updates."""
  return map_codebooks(lambda codebook: codebook.centers, codebooks)


def with_centers(codebooks: Any, centers: Any) -> Any:
  """The same codebooks with other centers, not sorted: for differentiation.

  After an optimizer's update use `set_centers_tree`, which restores the order.
  """
  return map_codebooks(
    lambda codebook, c: dataclasses.replace(codebook, centers=c),
    codebooks,
    centers,
  )


def set_centers_tree(codebooks: Any, centers: Any) -> Any:
  """`set_centers` of every codebook."""
  return map_codebooks(codebook_lib.set_centers, codebooks, centers)
