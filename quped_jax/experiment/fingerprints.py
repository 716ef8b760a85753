"""Fingerprints: short hashes of what a run's results follow from.

Two that are equal stand for the same data, or for networks that compute the
same; they are the same in every process.
"""

import enum
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from quped_jax.data.federation import Federation, Pool
from quped_jax.experiment import own_functions
from quped_jax.files.differences import HASH
from quped_jax.models import Model, example_pass
from quped_jax.quantization import codebook_tree

# Samples in the batch for which networks are traced.
_BATCH = 2


def of_arrays(tree: Any) -> str:
  """A hash of all arrays of a tree, and of its structure."""
  digest = _Digest()
  for x in jax.tree.leaves(tree):
    digest.array(x)
  digest.text(jax.tree.structure(tree))
  return digest.hex()


def of_data(federation: Federation) -> str:
  """A hash of who holds what: every sample, label and row number.

  Samples that are drawn and never stored are described by what draws them.
  """
  digest = _Digest()
  digest.text(of_arrays(federation))
  source: Any = federation.source
  if not isinstance(source, Pool):
    rows = jax.ShapeDtypeStruct((_BATCH,), jnp.int32)
    digest.function(lambda x, i, rows: x.draw(i, rows), source, 0, rows)
  return digest.hex()


def of_network(model: Model, federation: Federation) -> str:
  """A hash of how a network computes, and of what of it is quantized.

  It depends on the operations that JAX traces: layers, activations, constants,
  the initial weights' distribution, the form of convolutions, and derivatives,
  such as a network may define for itself. Names do not matter, except those of
  parameters.

  Args:
    model: the network.
    federation: it gives the shape of a sample.
  """
  digest = _Digest()
  apply: Any = model.apply
  example = jax.eval_shape(federation.example)
  inputs = jax.ShapeDtypeStruct((_BATCH, *example.shape[1:]), example.dtype)
  key = jax.eval_shape(lambda: jax.random.key(0))
  digest.function(model.init, key, inputs)
  params, stats = jax.eval_shape(model.init, key, inputs)
  digest.function(lambda *args: apply(*args, False), params, stats, inputs)

  def train(params, stats, inputs):
    logits, pull_back, stats = jax.vjp(
      lambda params: example_pass(model, params, stats, inputs),
      params,
      has_aux=True,
    )
    return logits, stats, pull_back(jnp.ones_like(logits))

  digest.function(train, params, stats, inputs)
  for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = codebook_tree.path_name(path)
    digest.text((name, bool(model.is_quantized(name))))
  _divided(digest, model, params, stats, inputs)
  return digest.hex()


def of_function(
  fn: Callable[[Any, Any], Any], federation: Federation, *, gradient: bool
) -> str:
  """A hash of what a function of outputs and targets computes.

  It depends on the operations that JAX traces, and on all constants in them,
  wherever the function is written.

  Args:
    fn: `(outputs [batch, width], targets [batch, ...]) -> array`.
    federation: it gives the shapes of both.
    gradient: whether the mean's derivative by the outputs counts too.
  """
  digest = _Digest()
  args = own_functions.shapes(federation, _BATCH)
  digest.function(fn, *args)
  if gradient:
    mean = own_functions.mean_loss(fn)
    digest.function(jax.grad(mean), *args)
  return digest.hex()


def _divided(digest: "_Digest", model: Model, params, stats, inputs) -> None:
  """Adds what is before the last layer, and that layer, where there is one."""
  if model.features is None or model.head is None:
    return
  features: Any = model.features
  try:
    found, _ = jax.eval_shape(
      lambda *args: features(*args, False), params, stats, inputs
    )
    digest.function(lambda *args: features(*args, False), params, stats, inputs)
    digest.function(model.head, params, found)
  except ValueError:
    digest.text("not divided")


class _Digest:
  """Hashes values one after the other."""

  def __init__(self):
    self._hash = hashlib.blake2b(digest_size=12)

  def hex(self) -> str:
    return HASH + self._hash.hexdigest()

  def text(self, value: Any) -> None:
    """Adds a value as text, without addresses in memory."""
    text = re.sub(r"0x[0-9a-fA-F]+", "0x", str(value))
    self._hash.update(f"{len(text)}:{text}".encode())

  def array(self, value: Any) -> None:
    """Adds an array: shape, type and every byte."""
    if isinstance(value, jax.Array) and jnp.issubdtype(
      value.dtype, jax.dtypes.prng_key
    ):
      self.text(jax.random.key_impl(value))
      value = jax.random.key_data(value)
    x = np.asarray(value)
    self.text((x.shape, x.dtype.name))
    if x.size:
      self._hash.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)

  def function(self, fn: Callable[..., Any], *args: Any) -> None:
    """Adds what a function computes, as JAX traces it."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    self.text(jax.tree.structure(shapes))
    self._closed(closed)

  def _closed(self, closed: Any) -> None:
    for x in closed.consts:
      self.array(x)
    self._jaxpr(closed.jaxpr)

  def _jaxpr(self, jaxpr: Any) -> None:
    """Adds operations and their operands, numbered in order of appearance.

    Not the text that JAX prints, which says which parts it traced only once.
    """
    numbers: dict[Any, int] = {}

    def define(variables):
      for variable in variables:
        numbers[variable] = len(numbers)
        self.text(variable.aval)

    def use(atoms):
      for atom in atoms:
        if isinstance(atom, jax.extend.core.Literal):
          self.array(atom.val)
        else:
          self.text(numbers[atom])

    define((*jaxpr.constvars, *jaxpr.invars))
    for equation in jaxpr.eqns:
      self.text(equation.primitive.name)
      use(equation.invars)
      for name in sorted(equation.params):
        if name != "name":
          self.text(name)
          self._parameter(equation.params[name])
      define(equation.outvars)
    use(jaxpr.outvars)

  def _parameter(self, value: Any) -> None:
    if isinstance(value, jax.extend.core.ClosedJaxpr):
      self._closed(value)
    elif isinstance(value, jax.extend.core.Jaxpr):
      self._jaxpr(value)
    elif isinstance(value, (np.ndarray, jax.Array)):
      self.array(value)
    elif isinstance(value, Mapping):
      for name in sorted(value, key=str):
        self.text(name)
        self._parameter(value[name])
    elif isinstance(value, (tuple, list)):
      self.text((type(value).__name__, len(value)))
      for entry in value:
        self._parameter(entry)
    elif isinstance(value, (set, frozenset)):
      self.text(sorted(map(str, value)))
    elif callable(value) and not isinstance(value, (type, enum.Enum)):
      self.text(getattr(value, "__qualname__", type(value).__qualname__))
    else:
      self.text(value)
