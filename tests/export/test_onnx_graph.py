"""Each operation of a graph computes what the one of NumPy does."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from quped_jax.export import onnx_graph
from quped_jax.files import codec, numpy_networks
from quped_jax.quantization import codebook

RNG = np.random.default_rng(0)


def run(graph, results, inputs) -> Any:
  """The results of a graph, by onnxruntime."""
  made = helper.make_graph(
    graph.nodes,
    "graph",
    [
      helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, ["batch", *x.shape[1:]]
      )
      for name, x in inputs.items()
    ],
    [helper.make_empty_tensor_value_info(name) for name in results],
    graph.constants,
  )
  opsets = [helper.make_opsetid("", onnx_graph.OPSET)]
  model = helper.make_model(made, opset_imports=opsets, ir_version=8)
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  return session.run(list(results), inputs)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("granularity", codebook.GRANULARITIES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_are_unpacked_to_the_bit(bits, granularity):
  shape, channelwise = (5, 3, 7), granularity == "channel"
  index = RNG.integers(0, 2**bits, shape)
  levels = draw(7, 2**bits) if channelwise else draw(2**bits)
  x = levels[np.arange(7), index] if channelwise else levels[index]
  graph = onnx_graph.Graph()
  weight = graph.packed("w", codec.pack(x, bits, channelwise), shape)
  assert weight.shape == shape and weight.ndim == 3
  (found,) = run(graph, ["w"], {})
  np.testing.assert_array_equal(found, x)


LAYER = {"kernel": draw(8, 6), "bias": draw(6)}
CONV = {"kernel": draw(3, 3, 2, 5), "bias": draw(5)}
NORM = {"scale": draw(8), "bias": draw(8)}
STATS = {"mean": draw(2), "var": draw(2) ** 2}
IMAGES = draw(3, 7, 5, 2)
TOKENS = RNG.integers(0, 8, (3, 4)).astype(np.float32)

# name: (inputs, further arguments, whether inputs are images).
OPERATIONS = {
  "flatten": ([IMAGES], (), True),
  "dense": ([draw(3, 4, 8)], (LAYER,), False),
  "conv": ([IMAGES], (CONV,), True),
  "conv, strided": ([IMAGES], ({"kernel": CONV["kernel"]}, 2), True),
  "conv, not padded": ([IMAGES], (CONV, 1, False), True),
  "pool": ([IMAGES], (), True),
  "batch_norm": (
    [IMAGES],
    ({"scale": draw(2), "bias": draw(2)}, STATS),
    True,
  ),
  "layer_norm": ([draw(3, 4, 8)], (NORM,), False),
  "relu": ([IMAGES], (), True),
  "gelu": ([3 * draw(3, 4, 8)], (), False),
  "add": ([IMAGES, draw(*IMAGES.shape)], (), True),
  "shortcut": ([IMAGES], (2, 3), True),
  "shortcut, plain": ([IMAGES], (1, 0), True),
  "mean_over_space": ([IMAGES], (), True),
  "scale": ([IMAGES], (0.3,), True),
  "embed": ([TOKENS], (draw(8, 6), draw(4, 6)), False),
  "attention": ([draw(3, 4, 6) for _ in range(3)], (2, 4), False),
  "last_position": ([draw(3, 4, 6)], (), False),
}


def given(graph, value):
  """An argument of an operation, as a weight of the graph."""
  if isinstance(value, dict):
    return {name: given(graph, x) for name, x in value.items()}
  if isinstance(value, np.ndarray):
    return graph.weight(f"weight_{len(graph.constants)}", value)
  return value


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_numpy(name):
  inputs, rest, images = OPERATIONS[name]
  method = name.partition(",")[0]
  expected = getattr(numpy_networks.Operations(), method)(*inputs, *rest)
  graph = onnx_graph.Graph()
  named = {f"x{i}": x for i, x in enumerate(inputs)}
  values = [onnx_graph.Value(x) for x in named]
  values = [graph.images(x) for x in values] if images else values
  rest = [given(graph, x) for x in rest]
  value = getattr(graph, method)(*values, *rest)
  graph.result(value, "y")
  (found,) = run(graph, ["y"], named)
  found = np.moveaxis(found, 1, -1) if value.images else found
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_operation_is_there():
  names = {name for name in vars(numpy_networks.Operations) if name[0] != "_"}
  assert names - {"images"} == {x.partition(",")[0] for x in OPERATIONS}
