"""A network as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from quped_jax import random_keys
from quped_jax.short_repr import short_repr

# The name of the last layer, a dense one.
HEAD = "last"


class Block(NamedTuple):
  """A part of a network between two of its layers.

  Attributes:
    name: its name, unique in the network.
    layers: the first components of the paths of its parameters and statistics,
      such as ("hidden_1",); no other block has them.
    apply: `apply(params, stats, inputs, train, key=None) -> (outputs, stats)`.
      It is given the parameters and statistics of the whole network and uses
      its own. `inputs` are the outputs of the block before it, or those of the
      network. The key is as in `Model.apply`.
  """

  name: str
  layers: tuple[str, ...]
  apply: Callable[..., tuple[jax.Array, Any]]

  def owns(self, path: str) -> bool:
    """Whether a parameter or statistic, by its path, is the block's."""
    return path.split("/")[0] in self.layers


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
    blocks: its parts in the order of the forward pass, which is their
      composition; the last one is `head`, and the outputs of the one before it
      are the `features`. None if unknown.
    random: whether it draws random numbers in training, as dropout does. Then
      `apply` and `features` take a fifth argument, a random key, which they are
      given if `train` is true: `apply(params, stats, inputs, train, key=None)`.
      A run finds it out for what `from_linen` makes.
    stacked: what `stack` made it of, for files that describe it; None for any
      other network.

  Examples:
    Softmax regression, quantized:

    >>> model = qj.Model(
    ...   name="softmax",
    ...   init=lambda key, inputs: (
    ...     {"kernel": jax.random.normal(key, (inputs.shape[1], 3))}, {}
    ...   ),
    ...   apply=lambda params, stats, inputs, train: (
    ...     inputs @ params["kernel"], stats
    ...   ),
    ...   is_quantized=lambda path: path == "kernel",
    ... )
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(params, stats, jnp.ones((5, 4)), False)[0].shape
    (5, 3)
  """

  name: str
  init: Callable[[jax.Array, jax.typing.ArrayLike], tuple[Any, Any]]
  apply: Callable[..., tuple[jax.Array, Any]]
  is_quantized: Callable[[str], bool]
  features: Callable[..., tuple[jax.Array, Any]] | None = None
  head: Callable[[Any, jax.Array], jax.Array] | None = None
  activations: tuple[str, ...] = ()
  random: bool = False
  blocks: tuple[Block, ...] | None = None
  stacked: Stacked | None = None

  __repr__ = short_repr


class NamedNetwork(NamedTuple):
  """What `create_model` makes a network of.

  Attributes:
    name: see there.
    num_classes: likewise.
    options: names and values; the values are hashable.
  """

  name: str
  num_classes: int
  options: tuple[tuple[str, Any], ...] = ()


class Stacked(NamedTuple):
  """Two networks that are one.

  Attributes:
    front: whose features are taken.
    back: the network that takes them.
  """

  front: Model
  back: NamedNetwork


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
  return path.split("/")[0] == HEAD


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
