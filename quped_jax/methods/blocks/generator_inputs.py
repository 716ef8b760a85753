"""A server without samples: a generator of inputs, on which it trains a model.

Generator and model take turns. On inputs of a batch of noise the generator
looks for what the model does not know yet, and the model learns there what the
clients' models say.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import server as server_lib
from quped_jax.models import MLP, Model, from_linen

# Of a channel that is constant over a batch.
_SMALLEST_VARIANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class TurnsOptions:
  """Settings of methods whose server trains on generated inputs.

  Attributes:
    method: the method's name, for errors.
    iterations: how often generator and model take turns in a round, each time
      on a batch of the clients' batch size.
    generator_steps: steps of the generator at its turn.
    generator_learning_rate: step size of the generator.
    generator_optimizer: its optimizer: "sgd", "momentum", "adam" or "adamw"; it
      starts afresh each round.
    distill_steps: steps of the model at its turn.
    distill_learning_rate: step size of the model.
    distill_optimizer: its optimizer, likewise.
    noise_size: number of entries of the noise.
    hidden: widths of the generator's hidden layers.
  """

  method: ClassVar[str]

  iterations: int = 10
  generator_steps: int = 1
  generator_learning_rate: float = api.traced(1e-3)
  generator_optimizer: str = "adam"
  distill_steps: int = 5
  distill_learning_rate: float = api.traced(1e-3)
  distill_optimizer: str = "adam"
  noise_size: int = 100
  hidden: tuple[int, ...] = (256,)

  def __post_init__(self):
    checks.at_least(f"{self.method}.iterations", self.iterations, 0)
    for prefix in ("generator", "distill"):
      server_lib.check_steps(self.method, self, prefix)
    checks.at_least(f"{self.method}.noise_size", self.noise_size, 1)
    for width in self.hidden:
      checks.at_least(f"{self.method}.hidden", width, 1)


class InputGenerator(NamedTuple):
  """The functions that `make_input_generator` returns.

  Attributes:
    init: `key -> params`.
    noise: `(key, batch_size) -> [batch, noise_size]`, standard Gaussian.
    inputs: `(params, noise, labels=None) -> [batch, ...]`; one that makes them
      by label is given one-hot labels `[batch, classes]`.
  """

  init: Callable[[jax.Array], Any]
  noise: Callable[[jax.Array, int], jax.Array]
  inputs: Callable[..., jax.Array]


def standardise(inputs: jax.Array) -> jax.Array:
  """Inputs `[batch, ..., channels]` of mean 0 and variance 1 in each channel.

  Over batch and places: networks are given inputs that were normalised so.
  """
  axes = tuple(range(inputs.ndim - 1))
  centred = inputs - jnp.mean(inputs, axis=axes, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
  return centred * jax.lax.rsqrt(variance + _SMALLEST_VARIANCE)


def make_input_generator(
  options: TurnsOptions, federation: Federation, classes: int = 0
) -> InputGenerator:
  """Makes a generator: dense layers, tanh, then `standardise`.

  Args:
    options: has the sizes of noise and layers.
    federation: has the shape of the inputs, which may be any.
    classes: number of labels; 0 for a generator that is given none.
  """
  shape, size = federation.example().shape[1:], options.noise_size
  network = from_linen(
    MLP(math.prod(shape), tuple(options.hidden)), "generator"
  )

  def init(key):
    return network.init(key, jnp.zeros((1, size + classes)))[0]

  def noise(key, batch_size):
    return jax.random.normal(key, (batch_size, size))

  def inputs(params, noise, labels=None):
    given = noise
    if labels is not None:
      given = jnp.concatenate([noise, labels], axis=1)
    outputs = jnp.tanh(network.apply(params, {}, given, False)[0])
    return standardise(outputs.reshape(-1, *shape))

  return InputGenerator(init, noise, inputs)


def sum_over_teachers(
  fn: Callable[..., Any],
  teachers: api.GlobalModel,
  heard: jax.Array,
  beside: Any = None,
) -> Any:
  """Adds up what the models that were heard say, one after the other.

  Args:
    fn: `(model, beside) -> tree`, of one model.
    teachers: the models, arrays `[slots, ...]`.
    heard: bool `[slots]`; no time is spent on others.
    beside: what `fn` is given of each slot, a tree of arrays `[slots, ...]`.
  """
  first = jax.tree.map(lambda x: x[0], (teachers, beside))
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fn, *first)
  )

  def add(total, slot):
    counts, teacher, beside = slot
    more = jax.lax.cond(counts, lambda: fn(teacher, beside), lambda: nothing)
    return jax.tree.map(jnp.add, total, more), None

  return jax.lax.scan(add, nothing, (heard, teachers, beside))[0]


def logits_of(
  model: Model, teacher: api.GlobalModel, inputs: jax.Array
) -> jax.Array:
  """What a model says about inputs, with its running statistics."""
  return model.apply(teacher.params, teacher.stats, inputs, False)[0]
