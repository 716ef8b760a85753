"""Trees of codebooks, with one codebook for each quantized tensor of a model.

A tree of codebooks mirrors the tree of parameters, with `optax.MaskedNode()`
where a tensor is not quantized.
"""

from __future__ import annotations

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
from quped_jax.typing import BitsByPath, Codebooks, Predicate, Tree

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
  params: Tree,
  predicate: Predicate,
  bits: BitsByPath,
  max_levels: int | None = None,
  *,
  granularity: str = "tensor",
  outer_level: float | None = None,
  initial_levels: str = "range",
) -> Codebooks:
  """Codebooks for all parameters whose path the predicate accepts.

  Args:
    params: a tree of parameters.
    predicate: takes a path such as `hidden_1/kernel`.
    bits: 1 to 8, or 32 for full precision, as in `init_codebook`; or a mapping
      from path patterns (as in `fnmatch`) to bits, where the first pattern that
      matches counts, so that `"*"` at the end stands for all others.
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

  Examples:
    >>> params = {
    ...   "first": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
    ...   "last": {"kernel": jnp.ones((4, 2))},
    ... }
    >>> codebooks = qj.init_codebooks(
    ...   params, lambda path: path.endswith("kernel"), {"first/*": 2, "*": 8}
    ... )
    >>> int(codebooks["first"]["kernel"].levels)
    4
    >>> int(codebooks["last"]["kernel"].levels)
    256
    >>> codebooks["first"]["bias"]
    MaskedNode()
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
  params: Tree,
  predicate: Predicate,
  bits: BitsByPath,
  *,
  granularity: str = "tensor",
  initial_levels: str = "kmeans",
) -> Tree:
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

  Returns:
    A tree like params, of the same types.

  Raises:
    ValueError: as in `init_codebooks`.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.9, 0.4, 0.6])}
    >>> model = qj.quantize_once(params, lambda path: path == "kernel", bits=1)
    >>> print(model["kernel"])
    [-0.95 -0.95  0.5   0.5 ]
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
  params: Tree, codebooks: Codebooks, *, deterministic: bool = False
) -> Tree:
  """Replaces every weight that has a codebook by its nearest level.

  Args:
    params: a tree of parameters.
    codebooks: a tree of codebooks over it, as `init_codebooks` makes it.
    deterministic: see `hard_quantize`.

  Returns:
    A tree like params; tensors without a codebook, and those in full precision,
    are as they were.

  Examples:
    >>> kernel = jnp.array([-1.0, -0.5, 0.5, 1.0])
    >>> params = {"kernel": kernel, "bias": jnp.ones(1)}
    >>> codebooks = qj.init_codebooks(params, lambda path: path == "kernel", 1)
    >>> model = qj.hard_quantize_tree(params, codebooks)
    >>> print(model["kernel"], model["bias"])
    [-0.75 -0.75  0.75  0.75] [1.]
  """
  return map_codebooks(
    lambda codebook, x: codebook_lib.hard_quantize(
      x, codebook, deterministic=deterministic
    ),
    codebooks,
    params,
    otherwise=lambda x: x,
  )


def get_centers(codebooks: Codebooks) -> Tree:
  """The centers of all codebooks, which an optimizer of levels updates.

  Args:
    codebooks: a tree of codebooks.

  Returns:
    A tree of float arrays, each `[max_levels]`, or `[channels, max_levels]`
    with levels by channel.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> print(qj.get_centers(codebooks)["kernel"])
    [-0.75  0.75]
  """
  return map_codebooks(lambda codebook: codebook.centers, codebooks)


def with_centers(codebooks: Codebooks, centers: Tree) -> Codebooks:
  """The same codebooks with other centers, not sorted: for differentiation.

  After an optimizer's update use `set_centers_tree`, which restores the order.

  Args:
    codebooks: a tree of codebooks.
    centers: their new centers, as `get_centers` gives them.

  Returns:
    A tree of codebooks.

  Examples:
    The gradient of a loss with respect to the levels:

    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> def loss(centers):
    ...   own = qj.with_centers(codebooks, centers)
    ...   return jnp.sum(qj.hard_quantize_tree(params, own)["kernel"])
    >>> print(jax.grad(loss)(qj.get_centers(codebooks))["kernel"])
    [2. 2.]
  """
  return map_codebooks(
    lambda codebook, c: dataclasses.replace(codebook, centers=c),
    codebooks,
    centers,
  )


def set_centers_tree(codebooks: Codebooks, centers: Tree) -> Codebooks:
  """Replaces the centers of all codebooks; restores order and padding.

  Args:
    codebooks: a tree of codebooks, which keep their numbers of levels.
    centers: their new centers, in any order, as `get_centers` gives them.

  Returns:
    A tree of codebooks with sorted centers.

  Raises:
    AssertionError: centers of another shape.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> centers = {"kernel": jnp.array([0.6, -0.8])}
    >>> moved = qj.set_centers_tree(codebooks, centers)
    >>> print(moved["kernel"].centers)
    [-0.8  0.6]
  """
  return map_codebooks(codebook_lib.set_centers, codebooks, centers)
