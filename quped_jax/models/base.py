"""A network as pure functions, and how to make one from a flax module."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors

from quped_jax.short_repr import short_repr

# The name of the last layer, a dense one.
_HEAD = "last"

# Names of arguments and fields that tell a network whether it trains: true in
# training, or true otherwise.
_IN_TRAINING = frozenset({"train", "training", "is_training"})
_TOLD = _IN_TRAINING | {"deterministic", "use_running_average"}


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
    is_quantized: whether the parameter at a path such as `"hidden_1/kernel"`
      is quantized. The paths of flax NNX, which end in `/value`, are given
      without that.
    features: `features(params, stats, inputs, train) -> (features, stats)`,
      the inputs of the last layer; None if unknown.
    head: `head(params, features) -> logits`, the last layer; likewise.
    activations: names of the functions between its layers, for files that
      describe it; () if unknown.
  """

  name: str
  init: Callable[[jax.Array, jax.typing.ArrayLike], tuple[Any, Any]]
  apply: Callable[[Any, Any, jax.typing.ArrayLike, bool], tuple[jax.Array, Any]]
  is_quantized: Callable[[str], bool]
  features: Callable[..., tuple[jax.Array, Any]] | None = None
  head: Callable[[Any, jax.Array], jax.Array] | None = None
  activations: tuple[str, ...] = ()

  __repr__ = short_repr


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


@contextlib.contextmanager
def _no_random_numbers(name: str) -> Iterator[None]:
  """Says that a network may not drop out, where it asks for a random key.

  A forward pass is a function of weights and inputs alone: it would otherwise
  differ between what a client trains, distils and sends of the same batch.
  """
  try:
    yield
  except errors.InvalidRngError as error:
    raise ValueError(
      "module: must draw no random numbers, as dropout does; that of model "
      f"{name!r} does. A rate of 0, or deterministic=True, turns it off"
    ) from error


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
      without batch statistics needs none of them. It may keep the collections
      `params` and `batch_stats`, and returns logits.
    name: the name under which results are reported.
    is_quantized: predicate on the parameter path.
    activations: see `Model`.

  Returns:
    The model. Its `init` raises ValueError if the module keeps another
    collection of variables, or batch statistics without being told whether it
    trains; its `apply`, if the module draws random numbers.

  Raises:
    ValueError: a class, or anything else that is no linen module.
  """
  _check_module(module, name)
  call = _TOLD.intersection(inspect.signature(type(module).__call__).parameters)
  # An argument takes precedence, and other things may have these names too.
  fields = {
    f.name
    for f in dataclasses.fields(module)
    if f.name in _TOLD - call
    and isinstance(getattr(module, f.name, None), (bool, type(None)))
  }

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

  def apply(params, stats, inputs, train) -> tuple[Any, Any]:
    variables = {"params": params, "batch_stats": stats}
    with _no_random_numbers(name):
      if not (train and stats):
        return run("apply", variables, inputs, train=train), stats
      logits, updated = run(
        "apply", variables, inputs, train=train, mutable=["batch_stats"]
      )
    return logits, updated["batch_stats"]

  def features(params, stats, inputs, train):
    caught = []

    def catch(layer, args, kwargs, context):
      if context.module.path == (_HEAD,) and context.method_name == "__call__":
        caught.append(args[0])
      return layer(*args, **kwargs)

    with nn.intercept_methods(catch):
      _, stats = apply(params, stats, inputs, train)
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
