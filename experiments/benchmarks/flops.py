"""Floating-point operations of networks, counted from their layers' shapes.

A multiplication and an addition are two operations. Only products of matrices
and convolutions count, with padding counted as if it were data.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import quped_jax as qj


def _layers(jaxpr: Any) -> Iterator[int]:
  """Operations of each product or convolution, in order."""
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _layers(inner)
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      terms = int(np.prod([shape[axis] for axis in contracted]))
    elif equation.primitive.name == "conv_general_dilated":
      numbers = equation.params["dimension_numbers"]
      kernel = equation.invars[1].aval.shape
      terms = int(np.prod(kernel)) // kernel[numbers.rhs_spec[0]]
    else:
      continue
    yield 2 * terms * int(np.prod(equation.outvars[0].aval.shape))


def layer_flops(model: qj.Model, shape: tuple[int, ...]) -> list[int]:
  """Operations of each layer in a forward pass.

  Args:
    model: with native convolutions, or none.
    shape: of a batch of inputs.
  """
  inputs = jax.ShapeDtypeStruct(shape, np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
  forward = jax.make_jaxpr(
    lambda params, stats, x: qj.models.example_pass(model, params, stats, x)[0]
  )
  return list(_layers(forward(*variables, inputs).jaxpr))


def sgd_flops(model: qj.Model, shape: tuple[int, ...]) -> int:
  """Operations of the network in one step of SGD.

  A layer's backward pass is two products as large as the forward pass, except
  that the gradient of the first layer's inputs is not needed.

  Args:
    model: with native convolutions, or none.
    shape: of a batch of inputs.
  """
  layers = layer_flops(model, shape)
  return 3 * sum(layers) - layers[0]
