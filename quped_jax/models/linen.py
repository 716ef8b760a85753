"""A model from a flax linen module."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors

from quped_jax.models.base import HEAD, Block, Model, hidden_kernels

# Names of arguments and fields that tell a network whether it trains: true in
# training, or true otherwise.
_IN_TRAINING = frozenset({"train", "training", "is_training"})
_TOLD = _IN_TRAINING | {"deterministic", "use_running_average"}
# Parts of other names that may be meant so.
_LIKE_TRAINING = re.compile("train|eval|infer|determin|drop")


def _check_module(module: Any, name: Any) -> None:
  if inspect.isclass(module):
    raise ValueError(
      f"module={module.__name__}: must be an instance of a flax linen module, "
      f"such as {module.__name__}(...), not the class"
    )
  if not isinstance(module, nn.Module):
    raise ValueError(
      f"module={type(module).__name__}: must be a flax linen module; others "
      "can be made a qj.Model of their own functions, as docs/add-your-own.md "
      "shows"
    )
  if not isinstance(name, str):
    raise ValueError(f"name={name!r}: must be text")


class RandomNumbersError(ValueError):
  """A network asks for random numbers where it was given no key."""


def _with_keys(
  fn: Callable[[dict[str, jax.Array]], Any],
  model: str,
  train: bool,
  key: jax.Array | None,
  names: tuple[str, ...] = ("dropout",),
) -> Any:
  """Runs a module with a key for each name under which it draws numbers.

  Args:
    fn: runs it, given {name: key}.
    model: the model's name, for errors.
    train: whether it trains.
    key: the key of all; None if it must draw nothing.
    names: under which it is known to draw. Others are found out by trying, not
      left to flax, which would take one key for all, of which layers that are
      scanned or mapped do not get one each.
  """
  # By name, so that no key depends on what other names there are.
  numbers = {name: zlib.crc32(name.encode()) for name in names}
  rngs = {}
  if key is not None:
    rngs = {name: jax.random.fold_in(key, n) for name, n in numbers.items()}
  try:
    return fn(rngs)
  except errors.InvalidRngError as error:
    if key is None:
      raise RandomNumbersError(_no_key(model, train)) from error
    asked = re.search(r'needs PRNG for "([^"]*)"', str(error))
    if asked is None or asked[1] in names:
      raise ValueError(
        "module: must pass random numbers on, by split_rngs, to what is inside "
        f"nn.scan, nn.vmap and the like; in that of model {model!r}, {error}"
      ) from error
    further = asked[1]
  return _with_keys(fn, model, train, key, (*names, further))


def _no_key(model: str, train: bool) -> str:
  """What is wrong if random numbers are asked for and there is no key."""
  if train:
    return (
      f"key=None: must be a random key in training, as model {model!r} draws "
      "random numbers; qj.models.training_pass gives it that of the batch"
    )
  return (
    f"module: must draw random numbers in training alone; that of model "
    f"{model!r} also does without, or is not told that it does not train"
  )


def _warn_of_flags(name: str, parameters: Mapping[str, Any]) -> None:
  """Says that a module is not told when it trains by the name that it asks."""
  flags = [
    n
    for n, p in parameters.items()
    if isinstance(p.default, bool) and _LIKE_TRAINING.search(n)
  ]
  if flags:
    warnings.warn(
      f"module: that of model {name!r} has the argument {flags[0]!r}, which is "
      "left as it is, in training too; one that tells when it trains must be "
      f"called one of {', '.join(sorted(_TOLD))}",
      stacklevel=3,
    )


def from_linen(
  module: nn.Module,
  name: str,
  is_quantized: Callable[[str], bool] = hidden_kernels,
  activations: tuple[str, ...] = (),
) -> Model:
  """Makes a model from a flax linen module.

  Args:
    module: called with `inputs`, and told whether it trains: by a keyword
      argument of its `__call__`, or a field of its own, that is called `train`,
      `training`, `is_training`, `deterministic` or `use_running_average`. One
      that computes the same in training needs none of them. It may keep the
      collections `params` and `batch_stats`, and returns logits. In training it
      may draw random numbers, under any name, as dropout does. One that can run
      its parts alone says so by a property `block_layers`, {name of a block:
      names of its layers} in the order of the forward pass, the last of them
      "last"; its `__call__` then takes the names of the blocks to run, one
      after the other, as `only`, with None for all.
    name: the name under which results are reported.
    is_quantized: predicate on the parameter path.
    activations: see `Model`.

  Returns:
    The model. Its `init` raises ValueError if the module keeps another
    collection of variables, or batch statistics without being told whether it
    trains; its `apply`, if the module draws random numbers without a key, which
    it takes in training. `settle` finds out whether the model is `random`.

  Raises:
    ValueError: a class, or anything else that is no linen module.

  Examples:
    >>> class Net(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, inputs):
    ...     hidden = nn.relu(nn.Dense(8, name="first")(inputs))
    ...     hidden = nn.relu(nn.Dense(8, name="middle")(hidden))
    ...     return nn.Dense(3, name="last")(hidden)
    >>> model = qj.from_linen(Net(), "net")
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> [name for name in params if model.is_quantized(f"{name}/kernel")]
    ['middle']
  """
  _check_module(module, name)
  parameters = inspect.signature(type(module).__call__).parameters
  call = _TOLD.intersection(parameters)
  # An argument takes precedence, and other things may have these names too.
  fields = {
    f.name
    for f in dataclasses.fields(module)
    if f.name in _TOLD - call
    and isinstance(getattr(module, f.name, None), (bool, type(None)))
  }

  if not (call or fields):
    _warn_of_flags(name, parameters)

  def told(names, train: bool) -> dict[str, Any]:
    return {n: train if n in _IN_TRAINING else not train for n in names}

  def run(method, *args, train: bool, **how):
    mine = module.clone(**told(fields, train)) if fields else module
    return getattr(mine, method)(*args, **told(call, train), **how)

  # Under jit the forward pass is dropped and only the initialisers run.
  @jax.jit
  def init_variables(key, inputs):
    return run("init", key, inputs, train=False)

  def init(key, inputs):
    variables = init_variables(key, inputs)
    unknown = sorted(set(variables) - {"params", "batch_stats"})
    if unknown:
      raise ValueError(
        f"module: must keep no collections but 'params' and 'batch_stats'; "
        f"that of model {name!r} keeps {unknown}"
      )
    if "batch_stats" in variables and not (call or fields):
      raise ValueError(
        f"module: must have an argument or a field called one of "
        f"{', '.join(sorted(_TOLD))}, as that of model {name!r} keeps batch "
        "statistics and must be told when it trains"
      )
    return variables.get("params", {}), variables.get("batch_stats", {})

  def forward(params, stats, inputs, train, key=None, **how):
    variables = {"params": params, "batch_stats": stats}
    mutable = ["batch_stats"] if train and stats else False

    def call(rngs):
      given = {"train": train, "mutable": mutable, "rngs": rngs, **how}
      return run("apply", variables, inputs, **given)

    found = _with_keys(call, name, train, key)
    if not mutable:
      return found, stats
    outputs, updated = found
    return outputs, updated["batch_stats"]

  def apply(params, stats, inputs, train, key=None) -> tuple[Any, Any]:
    return forward(params, stats, inputs, train, key)

  def block(own: str, layers: tuple[str, ...]) -> Block:
    def apply_block(params, stats, inputs, train, key=None):
      return forward(params, stats, inputs, train, key, only=(own,))

    return Block(own, layers, apply_block)

  def features(params, stats, inputs, train, key=None):
    caught = []

    def catch(layer, args, kwargs, context):
      if context.module.path == (HEAD,) and context.method_name == "__call__":
        caught.append(args[0])
      return layer(*args, **kwargs)

    with nn.intercept_methods(catch):
      _, stats = apply(params, stats, inputs, train, key)
    if not caught:
      raise ValueError(
        f"model={name!r}: must have a layer {HEAD!r}, a dense one that gives "
        "the logits, for methods that divide the model there"
      )
    return caught[-1], stats

  def head(params, features):
    layer = params[HEAD]
    logits = features @ layer["kernel"]
    if "bias" not in layer:
      return logits
    return logits + jnp.broadcast_to(layer["bias"], logits.shape)

  blocks = getattr(module, "block_layers", None)
  return Model(
    name,
    init,
    apply,
    is_quantized,
    features,
    head,
    activations,
    blocks=blocks and tuple(block(*item) for item in blocks.items()),
  )
