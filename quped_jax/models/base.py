"""A network as pure functions, and how to make one from a flax module."""

import dataclasses
import inspect
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors

from quped_jax import random_keys
from quped_jax.short_repr import short_repr

# The name of the last layer, a dense one.
_HEAD = "last"

# Names of arguments and fields that tell a network whether it trains: true in
# training, or true otherwise.
_IN_TRAINING = frozenset({"train", "training", "is_training"})
_TOLD = _IN_TRAINING | {"deterministic", "use_running_average"}
# Parts of other names that may be meant so.
_LIKE_TRAINING = re.compile("train|eval|infer|determin|drop")


class Model(NamedTuple):
  """A network as pure functions.

  Batch-norm statistics are kept apart from the parameters, so that a learner
  can have one set of them per variant of the same weights.

  Attributes:
    name: the name under which results are reported.
    init: `init(key, inputs) -> (params, stats)`. Only the shape and type of
      `inputs`, `[batch, ...]`, matter. `stats` is `{}` where the network keeps
      none.
    apply: `apply(params, stats, inputs, train) -> (logits, stats)` with
      `logits` of shape `[batch, classes]`. `train` is a static bool: with True,
      the batch's own statistics normalise and the new running statistics are
      returned; with False, the running ones normalise and are returned as is.
      See `random` for a further argument.
    is_quantized: whether the parameter at a path such as `"hidden_1/kernel"`
      is quantized. The paths of flax NNX, which end in `/value`, are given
      without that.
    features: `features(params, stats, inputs, train) -> (features, stats)`,
      the inputs of the last layer; None if unknown.
    head: `head(params, features) -> logits`, the last layer; likewise.
    activations: names of the functions between its layers, for files that
      describe it; () if unknown.
    random: whether it draws random numbers in training, as dropout does. Then
      `apply` and `features` take a fifth argument, a random key, which they are
      given if `train` is true: `apply(params, stats, inputs, train, key=None)`.
      A run finds it out for what `from_linen` makes.
  """

  name: str
  init: Callable[[jax.Array, jax.typing.ArrayLike], tuple[Any, Any]]
  apply: Callable[..., tuple[jax.Array, Any]]
  is_quantized: Callable[[str], bool]
  features: Callable[..., tuple[jax.Array, Any]] | None = None
  head: Callable[[Any, jax.Array], jax.Array] | None = None
  activations: tuple[str, ...] = ()
  random: bool = False

  __repr__ = short_repr


class Drawn(Protocol):
  """What a training pass takes of a batch, such as one of a federation."""

  @property
  def inputs(self) -> Any:
    """Inputs `[batch, ...]`."""
    ...

  @property
  def key(self) -> jax.Array | None:
    """The batch's random key, for networks that draw random numbers."""
    ...


def training_pass(
  model: Model, params: Any, stats: Any, batch: Drawn
) -> tuple[jax.Array, Any]:
  """A network's forward pass in training; all of them go through here.

  The passes of one step have the same batch and so the same key, those of the
  weights and of their quantized form too: they drop the same units (common
  random numbers), and differ by their weights alone. A network of another
  shape that learns beside it draws from the same key.

  Args:
    model: the network.
    params: its parameters.
    stats: its batch-norm statistics.
    batch: the samples, with a random key if the network draws random numbers.

  Returns:
    The logits, and the new statistics.

  Raises:
    ValueError: no key, for a network that needs one.
  """
  if not model.random:
    return model.apply(params, stats, batch.inputs, True)
  key = _pass_key(model, batch.key)
  return model.apply(params, stats, batch.inputs, True, key)


def example_pass(
  model: Model, params: Any, stats: Any, inputs: Any
) -> tuple[jax.Array, Any]:
  """A forward pass in training, to be traced: with a key that is constant."""
  keys = (jax.random.key(0),) if model.random else ()
  return model.apply(params, stats, inputs, True, *keys)


def pass_keys(
  model: Model, key: jax.Array | None, passes: int
) -> jax.Array | None:
  """Random keys `[passes]` of batches; None for networks that need none.

  Args:
    model: the network that sees the batches.
    key: a key, which may also draw the batches.
    passes: how many batches there are.
  """
  if not model.random:
    return None
  return jax.random.split(_pass_key(model, key), passes)


def _pass_key(model: Model, key: jax.Array | None) -> jax.Array:
  if key is None:
    raise ValueError(
      f"batch.key=None: must be a random key, as model {model.name!r} draws "
      "random numbers in training"
    )
  return jax.random.fold_in(key, random_keys.TRAINING_PASS)


def is_head(path: str) -> bool:
  """Whether a path names a parameter of the last layer."""
  return path.split("/")[0] == _HEAD


def hidden_kernels(path: str) -> bool:
  """Tells whether a path names the kernel of a hidden layer.

  The models of this package name their first layer `first` and their last
  layer `last`. Those two, biases and normalisation parameters stay in full
  precision. Where a network has no layers of these names, a run also keeps
  those in full precision that come first and last in its forward pass.

  Args:
    path: a parameter path, its components joined by `/`.

  Returns:
    True if the last component is `kernel` and none is `first` or `last`.
  """
  *layers, leaf = path.split("/")
  return leaf == "kernel" and not {"first", "last"}.intersection(layers)


def _check_module(module: Any, name: Any) -> None:
  if inspect.isclass(module):
    raise ValueError(
      f"module={module.__name__}: must be an instance of a flax linen module, "
      f"such as {module.__name__}(...), not the class"
    )
  if not isinstance(module, nn.Module):
    raise ValueError(
      f"module={type(module).__name__}: must be a flax linen module; others "
      "can be made a qj.Model of their own functions, as docs/guide.md shows"
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
      may draw random numbers, under any name, as dropout does.
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

  def apply(params, stats, inputs, train, key=None) -> tuple[Any, Any]:
    variables = {"params": params, "batch_stats": stats}
    mutable = ["batch_stats"] if train and stats else False

    def call(rngs):
      return run(
        "apply", variables, inputs, train=train, mutable=mutable, rngs=rngs
      )

    found = _with_keys(call, name, train, key)
    if not mutable:
      return found, stats
    logits, updated = found
    return logits, updated["batch_stats"]

  def features(params, stats, inputs, train, key=None):
    caught = []

    def catch(layer, args, kwargs, context):
      if context.module.path == (_HEAD,) and context.method_name == "__call__":
        caught.append(args[0])
      return layer(*args, **kwargs)

    with nn.intercept_methods(catch):
      _, stats = apply(params, stats, inputs, train, key)
    if not caught:
      raise ValueError(
        f"model {name!r} has no layer {_HEAD!r}; must have one, a dense layer "
        "that gives the logits, for methods that divide the model there"
      )
    return caught[-1], stats

  def head(params, features):
    layer = params[_HEAD]
    logits = features @ layer["kernel"]
    if "bias" not in layer:
      return logits
    return logits + jnp.broadcast_to(layer["bias"], logits.shape)

  return Model(name, init, apply, is_quantized, features, head, activations)
