"""What a network does with its parameters, in the order of its forward pass."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
from jax.extend.core import ClosedJaxpr, Jaxpr

from quped_jax.quantization import codebook_tree

# The parameters that make a layer.
_LAYERS = ("kernel", "embedding")

# Derivatives of these were written by their author, and are not XLA's.
_CUSTOM = ("custom_vjp_call", "custom_jvp_call")


class Use(NamedTuple):
  """An operation in which parameters meet what comes from the inputs.

  Attributes:
    paths: of the parameters, such as "hidden_1/kernel".
    equation: the operation, as JAX traces it.
    custom: whether it is part of a function with derivatives of its own.
    first: whether no layer has seen the inputs before.
  """

  paths: tuple[str, ...]
  equation: Any
  custom: bool
  first: bool


class Trace(NamedTuple):
  """What a forward pass does with parameters.

  Attributes:
    uses: in their order.
    first: the kernels, and embeddings, of the layers that see the inputs.
    last: those of the layers after which there is no other.
  """

  uses: list[Use]
  first: frozenset[str]
  last: frozenset[str]


class _Value(NamedTuple):
  """What is known of a value in a trace.

  Attributes:
    own: the parameters, by number, of which alone it is computed, such as a
      kernel in another type; none if inputs enter it.
    inputs: whether inputs enter it.
    layers: the parameters of the last layers before it.
  """

  own: frozenset[int] = frozenset()
  inputs: bool = False
  layers: frozenset[int] = frozenset()


_Say = Callable[[frozenset[int], Any, bool, bool], None]


def trace(apply: Callable[..., Any], params: Any, *args: Any) -> Trace:
  """Follows parameters and inputs through a forward pass.

  Args:
    apply: called as `apply(params, *args)`; returns the logits.
    params: a tree of parameters, or of their shapes and types.
    *args: likewise; what is computed of these is no parameter's own.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  paths = [codebook_tree.path_name(path) for path, _ in leaves]
  layers = frozenset(
    i for i, path in enumerate(paths) if path.split("/")[-1] in _LAYERS
  )
  closed = jax.make_jaxpr(apply)(params, *args)
  values = [_Value(own=frozenset([i])) for i in range(len(paths))]
  rest = len(closed.jaxpr.invars) - len(paths)
  values += [_Value(inputs=True)] * rest
  found: list[Use] = []

  def say(own, equation, custom, first):
    names = tuple(paths[i] for i in sorted(own))
    found.append(Use(names, equation, custom, first))

  results = _Walk(layers, say).function(closed.jaxpr, values, custom=False)

  kernels = {paths[i] for i in layers}
  first = {path for use in found if use.first for path in use.paths}
  last = frozenset(paths[i] for i in _joined(results).layers)
  return Trace(found, frozenset(first & kernels), last)


class _Walk(NamedTuple):
  """Follows values through a traced function.

  Attributes:
    layers: the parameters that make a layer.
    say: is told of every use: parameters, equation, custom, first.
  """

  layers: frozenset[int]
  say: _Say

  def function(
    self, jaxpr: Jaxpr, given: Sequence[_Value], *, custom: bool
  ) -> list[_Value]:
    """Follows a function's operations; returns what is known of its results."""
    values: dict[Any, _Value] = dict(zip(jaxpr.invars, given, strict=True))

    def look(atom) -> _Value:
      if isinstance(atom, jax.extend.core.Literal):
        return _Value()
      return values.get(atom, _Value())  # A constant.

    for equation in jaxpr.eqns:
      inside = custom or equation.primitive.name in _CUSTOM
      given = [look(atom) for atom in equation.invars]
      results = self._operation(equation, given, inside)
      values.update(zip(equation.outvars, results, strict=True))
    return [look(atom) for atom in jaxpr.outvars]

  def _operation(self, equation, given, custom) -> list[_Value]:
    """Follows one operation, which may consist of others."""
    name, parts = equation.primitive.name, list(_parts(equation))
    if name == "cond":
      # The first operand says which branch is taken.
      found = [self.function(part, given[1:], custom=custom) for part in parts]
      return [_joined(results) for results in zip(*found, strict=True)]
    if name == "while":
      skipped = equation.params["cond_nconsts"]
      constant = equation.params["body_nconsts"]
      body = equation.params["body_jaxpr"].jaxpr
      return self._loop(body, given[skipped:], constant, None, custom)
    if name == "scan":
      constant = equation.params["num_consts"]
      carried = constant + equation.params["num_carry"]
      return self._loop(parts[0], given, constant, carried, custom)
    if len(parts) == 1 and len(parts[0].invars) == len(given):
      return self.function(parts[0], given, custom=custom)
    return [self._primitive(equation, given, custom)] * len(equation.outvars)

  def _primitive(self, equation, given, custom) -> _Value:
    result = _joined(given)
    if not result.inputs:
      return result
    own = frozenset(i for value in given for i in value.own)
    if own:
      self.say(own, equation, custom, not result.layers)
    if own & self.layers:
      result = result._replace(layers=own & self.layers)
    return result

  def _loop(self, body, given, constant, carried, custom) -> list[_Value]:
    """Follows a loop's body, once it is known what its rounds pass on."""
    quiet = self._replace(say=lambda *_: None)
    given = list(given)
    while True:
      results = quiet.function(body, given, custom=custom)
      before = given[constant:carried]
      after = [_joined(pair) for pair in zip(before, results, strict=False)]
      if after == before:
        return self.function(body, given, custom=custom)
      given[constant:carried] = after


def _joined(values: Sequence[_Value]) -> _Value:
  """What is known of a value that is computed of these."""
  inputs = any(value.inputs for value in values)
  own = frozenset(i for value in values for i in value.own)
  layers = frozenset(i for value in values for i in value.layers)
  return _Value(frozenset() if inputs else own, inputs, layers)


def _parts(equation: Any) -> Iterator[Jaxpr]:
  """The traced functions that an operation calls."""
  for value in equation.params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(part, ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, Jaxpr):
        yield part
