"""Networks that users give: checked by shape, before anything is compiled."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from quped_jax.models import uses
from quped_jax.models.base import (
  Block,
  Model,
  example_pass,
  hidden_kernels,
)
from quped_jax.models.linen import RandomNumbersError
from quped_jax.quantization import codebook_tree

# Of parameters; also of statistics that are no whole numbers.
_FLOATS = tuple(map(jnp.dtype, ("float32", "bfloat16", "float16")))

# Samples in the batch for which networks are traced.
_BATCH = 2
# When their logits are checked, this many and one for each class: so that those
# of a few rows, or of each class, are not taken for those of the batch.
_MANY = 4099


def check_type(model: Any) -> None:
  """Raises a ValueError unless a value is a `Model`, and says how to make one.

  Args:
    model: as a user gave it.
  """
  if isinstance(model, Model):
    for field in ("init", "apply", "is_quantized"):
      if not callable(getattr(model, field)):
        raise ValueError(
          f"model.{field}={getattr(model, field)!r}: must be a function"
        )
    if not isinstance(model.random, bool):
      raise ValueError(f"model.random={model.random!r}: must be a bool")
    _check_block_type(model.blocks)
    return
  shown, how = type(model).__name__, ""
  if isinstance(model, str):
    shown = repr(model)
    how = "; the name of a network is a setting, Settings(model=...)"
  elif inspect.isclass(model):
    shown = model.__name__
    how = (
      f", not a class; qj.from_linen({shown}(...), 'net') makes one of a flax "
      "linen module"
    )
  elif isinstance(model, nn.Module):
    how = "; qj.from_linen(module, 'net') makes one of a flax linen module"
  elif isinstance(model, nnx.Module):
    how = "; docs/add-your-own.md makes one of a flax NNX module"
  raise ValueError(f"model={shown}: must be a qj.Model{how}")


def _check_block_type(blocks: Any) -> None:
  names = [block.name for block in blocks or () if isinstance(block, Block)]
  whole = isinstance(blocks, tuple) and len(set(names)) == len(blocks) > 0
  if blocks is not None and not whole:
    raise ValueError(
      "model.blocks: must be a tuple of qj.models.Block, of different names, "
      "or None"
    )


def settle(model: Model, num_classes: int, inputs: Any) -> Model:
  """Checks a network by shape, and settles what it does not say of itself.

  Args:
    model: as a user gave it.
    num_classes: number of logits that it must have.
    inputs: `[batch, ...]`, or shape and type; of a batch of any size.

  Returns:
    The network; `random`, if it turns out to draw random numbers in training.
    With `hidden_kernels`, which knows the first and the last layer by their
    names, these two are known by their place in the forward pass too.

  Raises:
    ValueError: the network does not fit the samples or the classes.
  """
  inputs = jax.ShapeDtypeStruct((_BATCH, *inputs.shape[1:]), inputs.dtype)
  params, stats = _check_init(model, inputs)
  try:
    _check_apply(model, params, stats, inputs, True, num_classes)
  except RandomNumbersError:
    model = model._replace(random=True)
    _check_apply(model, params, stats, inputs, True, num_classes)
  _check_apply(model, params, stats, inputs, False, num_classes)
  _check_blocks(model, params, stats, inputs, num_classes)
  if model.is_quantized is not hidden_kernels:
    return model
  outer = _outer_layers(model, params, stats, inputs)
  if not outer:
    return model
  return model._replace(
    is_quantized=lambda path: hidden_kernels(path) and path not in outer
  )


def check_trainable(model: Model, inputs: Any) -> None:
  """Raises a ValueError if parameters or statistics cannot be trained.

  Args:
    model: a network that is settled.
    inputs: see `settle`.
  """
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
  kinds = ", ".join(map(str, _FLOATS))
  for path, leaf in _named(params):
    if leaf.dtype not in _FLOATS:
      raise ValueError(
        f"model={model.name!r}: must have parameters of {kinds}; {path!r} is "
        f"{leaf.dtype}"
      )
  for path, leaf in _named(stats):
    whole = jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == bool
    if leaf.dtype not in _FLOATS and not whole:
      raise ValueError(
        f"model={model.name!r}: must have statistics of {kinds}, or of whole "
        f"numbers; {path!r} is {leaf.dtype}"
      )


def plain_convolutions(model: Model, inputs: Any) -> list[str]:
  """Kernels of convolutions that `resolve_conv` would make faster on a CPU.

  Args:
    model: a network that was checked.
    inputs: see `settle`.
  """
  inputs = jax.ShapeDtypeStruct((_BATCH, *inputs.shape[1:]), inputs.dtype)
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
  return [
    path
    for use in _trace(model, params, stats, inputs).uses
    if _is_plain(use)
    for path in use.paths
  ]


def _is_plain(use: uses.Use) -> bool:
  """Whether it is XLA's convolution, of the kind that has faster forms."""
  if use.custom or use.equation.primitive.name != "conv_general_dilated":
    return False
  given = use.equation.params
  groups = {given["feature_group_count"], given["batch_group_count"]}
  dilations = {*given["lhs_dilation"], *given["rhs_dilation"]}
  return groups == dilations == {1}


def _trace(model: Model, params: Any, stats: Any, inputs: Any) -> uses.Trace:
  def logits(params, stats, inputs):
    return model.apply(params, stats, inputs, False)[0]

  return uses.trace(logits, params, stats, inputs)


def _outer_layers(model, params, stats, inputs) -> frozenset[str]:
  """Kernels of the first and the last layer, where no name says which it is."""
  named = {path.split("/")[0] for path, _ in _named(params)}
  if {"first", "last"} <= named:
    return frozenset()
  found = _trace(model, params, stats, inputs)
  first = frozenset() if "first" in named else found.first
  last = frozenset() if "last" in named else found.last
  return first | last


def _check_init(model: Model, inputs: Any) -> tuple[Any, Any]:
  """Shapes of parameters and statistics, checked."""
  key = jax.random.key(0)
  found = _shapes(model, inputs, "init", lambda x: model.init(key, x), inputs)
  if not isinstance(found, tuple) or len(found) != 2:
    raise ValueError(
      f"model={model.name!r}: must have an init that returns (params, stats), "
      f"with stats {{}} for none; it returns a {type(found).__name__}"
    )
  return found


def _check_apply(model, params, stats, inputs, train, num_classes) -> None:
  """Logits and statistics have the right shapes."""
  size = _MANY + num_classes
  inputs = jax.ShapeDtypeStruct((size, *inputs.shape[1:]), inputs.dtype)

  def apply(params, stats, inputs):
    if train:
      return example_pass(model, params, stats, inputs)
    return model.apply(params, stats, inputs, False)

  found = _shapes(model, inputs, "apply", apply, params, stats, inputs)
  if not isinstance(found, tuple) or len(found) != 2:
    raise ValueError(
      f"model={model.name!r}: must have an apply that returns (logits, stats); "
      f"it returns a {type(found).__name__}"
    )
  logits, after = found
  want = f"logits [batch, {num_classes}], one for each class (or other target)"
  if not isinstance(logits, jax.ShapeDtypeStruct):
    raise ValueError(
      f"model={model.name!r}: must return {want}, and nothing else; it returns "
      f"a {type(logits).__name__}"
    )
  if logits.shape != (size, num_classes):
    raise ValueError(
      f"model={model.name!r}: must return {want}; for a batch of {size} it "
      f"returns {list(logits.shape)}"
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(
      f"model={model.name!r}: must return logits of a floating type; it "
      f"returns {logits.dtype}"
    )
  before, after = (_kinds(tree) for tree in (stats, after))
  for path in sorted(before.keys() | after.keys()):
    if before.get(path) != after.get(path):
      raise ValueError(
        f"model={model.name!r}: must return statistics of the shapes and types "
        f"that it was given; {path!r} was {before.get(path, 'absent')} and is "
        f"{after.get(path, 'absent')}, with train={train}"
      )


def _check_blocks(model, params, stats, inputs, num_classes) -> None:
  """Every layer is in one of the blocks, which together give the logits."""
  if model.blocks is None:
    return
  blocks = model.blocks
  paths = [path for tree in (params, stats) for path, _ in _named(tree)]
  for path in paths:
    owners = [block.name for block in blocks if block.owns(path)]
    if len(owners) != 1:
      raise ValueError(
        f"model={model.name!r}: must have every layer in exactly one of its "
        f"blocks, or blocks=None; {path!r} is in {owners or 'none'}"
      )

  def composed(params, stats, inputs):
    outputs = inputs
    for block in blocks:
      outputs, _ = block.apply(params, stats, outputs, False)
    return outputs

  logits = _shapes(model, inputs, "blocks", composed, params, stats, inputs)
  want = (inputs.shape[0], num_classes)
  shape = getattr(logits, "shape", type(logits).__name__)
  if shape != want:
    raise ValueError(
      f"model={model.name!r}: must have blocks that together return logits "
      f"of shape {want}; they return {shape}"
    )


def _kinds(tree: Any) -> dict[str, str]:
  return {
    path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _named(tree)
  }


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    yield codebook_tree.path_name(path), leaf


def _shapes(
  model: Model, inputs: Any, what: str, fn: Callable[..., Any], *args: Any
) -> Any:
  """Traces a function of a network; what fails in it becomes a ValueError."""
  try:
    return jax.eval_shape(fn, *args)
  except Exception as error:  # Whatever the user's own code raises.
    if isinstance(error, ValueError) and ": must" in str(error):
      raise  # It says what is wrong.
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    raise ValueError(
      f"model={model.name!r}: must be one for samples of shape "
      f"{inputs.shape[1:]}; its {what} fails with {type(error).__name__}: "
      f"{reason}"
    ) from error
