"""The operations of networks, written as the nodes of an ONNX graph.

`Graph` has the methods of `numpy_networks.Operations`; what they take and
return are values of the graph. Images have their channels first, as ONNX has
them. Nodes that lay out weights do not depend on the inputs: what runs the
graph computes them once, when it loads it.

A quantized tensor stays as small as it is in a packed file: its bit planes and
its table of levels are constants, from which shifts, masks and a look-up make
the weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quped_jax.files import codec

# The earliest with everything that is used; BitwiseAnd is new in it.
OPSET = 18
_MANY = np.iinfo(np.int64).max  # An end of a slice: as far as it goes.


class Value(NamedTuple):
  """A value that depends on the inputs.

  Attributes:
    name: in the graph.
    images: whether it is `[batch, channels, height, width]`.
  """

  name: str
  images: bool = False


class Weight(NamedTuple):
  """A value that does not.

  Attributes:
    name: in the graph.
    shape: its shape.
  """

  name: str
  shape: tuple[int, ...]

  @property
  def ndim(self) -> int:
    return len(self.shape)


class Graph:
  """A graph that grows.

  Attributes:
    nodes: its nodes so far.
    constants: its constants so far.
  """

  def __init__(self):
    self.nodes: list[onnx.NodeProto] = []
    self.constants: list[onnx.TensorProto] = []
    self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

  # Values that do not depend on the inputs.

  def weight(self, name: str, array: np.ndarray) -> Weight:
    """A tensor as it is."""
    self.constants.append(numpy_helper.from_array(array, name))
    return Weight(name, array.shape)

  def packed(
    self, name: str, tensor: codec.Packed, shape: tuple[int, ...]
  ) -> Weight:
    """A quantized tensor, unpacked in the graph."""
    bits, levels = len(tensor.planes), tensor.levels
    planes = self.weight(f"{name}.planes", tensor.planes[..., None]).name
    right = np.arange(7, -1, -1, dtype=np.uint8)
    left = np.arange(bits, dtype=np.uint8)[:, None, None]
    x = self._node("BitShift", planes, self._constant(right), direction="RIGHT")
    x = self._node("BitwiseAnd", x, self._constant(np.ones(1, np.uint8)))
    x = self._node("BitShift", x, self._constant(left), direction="LEFT")
    x = self._node("Cast", x, to=onnx.TensorProto.INT32)
    x = self._node("ReduceSum", x, self._axes(0), keepdims=0)
    x = self._node("Reshape", x, self._axes(-1))
    # The last byte may have more bits than there are weights.
    count = int(np.prod(shape, dtype=np.int64))
    x = self._node("Slice", x, self._axes(0), self._axes(count))
    if levels.ndim > 1:
      channels = len(levels)
      begin = np.arange(channels, dtype=np.int32) << bits
      x = self._node("Reshape", x, self._axes(-1, channels))
      x = self._node("Add", x, self._constant(begin))
    table = self.weight(f"{name}.levels", levels.reshape(-1)).name
    x = self._node("Gather", table, x)
    self._node("Reshape", x, self._axes(*shape), name=name)
    return Weight(name, shape)

  def _constant(self, array: np.ndarray) -> str:
    """A constant, which the graph has once."""
    key = (str(array.dtype), array.shape, array.tobytes())
    if key not in self._known:
      self._known[key] = f"constant_{len(self._known)}"
      self.weight(self._known[key], array)
    return self._known[key]

  def _axes(self, *numbers: int) -> str:
    return self._constant(np.array(numbers, np.int64))

  def _number(self, number: float) -> str:
    return self._constant(np.array(number, np.float32))

  def _node(
    self, kind: str, *inputs: str, name: str = "", **attributes: Any
  ) -> str:
    name = name or f"{kind.lower()}_{len(self.nodes)}"
    node = helper.make_node(kind, inputs, [name], name=name, **attributes)
    self.nodes.append(node)
    return name

  # Around a network.

  def normalised(self, inputs: str, mean: np.ndarray, std: np.ndarray) -> Value:
    """Samples as the network sees them."""
    x = self._node("Sub", inputs, self._constant(mean))
    return Value(self._node("Div", x, self._constant(std)))

  def result(self, x: Value, name: str) -> None:
    """Gives a value the name of a result."""
    self._node("Identity", x.name, name=name)

  # The operations of networks, see `numpy_networks.Operations`.

  def images(self, x: Value) -> Value:
    return Value(self._node("Transpose", x.name, perm=[0, 3, 1, 2]), True)

  def flatten(self, x: Value) -> Value:
    name = x.name
    if x.images:
      # Dense layers have their weights in the order of channels last.
      name = self._node("Transpose", name, perm=[0, 2, 3, 1])
    return Value(self._node("Flatten", name, axis=1))

  def dense(self, x: Value, layer: Mapping[str, Weight]) -> Value:
    y = self._node("MatMul", x.name, layer["kernel"].name)
    return Value(self._node("Add", y, layer["bias"].name))

  def conv(
    self,
    x: Value,
    layer: Mapping[str, Weight],
    stride: int = 1,
    padded: bool = True,
  ) -> Value:
    kernel = layer["kernel"]
    name = self._node("Transpose", kernel.name, perm=[3, 2, 0, 1])
    inputs = [x.name, name, *(w.name for w in [layer.get("bias")] if w)]
    padding = [kernel.shape[0] // 2 if padded else 0] * 4
    strides = [stride, stride]
    return Value(
      self._node("Conv", *inputs, pads=padding, strides=strides), True
    )

  def pool(self, x: Value) -> Value:
    window = [2, 2]
    y = self._node("MaxPool", x.name, kernel_shape=window, strides=window)
    return Value(y, True)

  def batch_norm(
    self, x: Value, layer: Mapping[str, Weight], stats: Mapping[str, Weight]
  ) -> Value:
    own = [layer["scale"], layer["bias"], stats["mean"], stats["var"]]
    names = [w.name for w in own]
    return Value(
      self._node("BatchNormalization", x.name, *names, epsilon=1e-5), True
    )

  def layer_norm(self, x: Value, layer: Mapping[str, Weight]) -> Value:
    names = [layer[field].name for field in ("scale", "bias")]
    return Value(self._node("LayerNormalization", x.name, *names, epsilon=1e-6))

  def relu(self, x: Value) -> Value:
    return x._replace(name=self._node("Relu", x.name))

  def gelu(self, x: Value) -> Value:
    cube = self._node("Pow", x.name, self._number(3))
    inner = self._node("Mul", cube, self._number(0.044715))
    inner = self._node("Add", x.name, inner)
    inner = self._node("Mul", inner, self._number(np.sqrt(2 / np.pi)))
    share = self._node("Add", self._node("Tanh", inner), self._number(1))
    whole = self._node("Mul", x.name, share)
    return Value(self._node("Mul", whole, self._number(0.5)))

  def add(self, x: Value, y: Value) -> Value:
    return x._replace(name=self._node("Add", x.name, y.name))

  def shortcut(self, x: Value, stride: int, added: int) -> Value:
    ends = (self._axes(0, 0), self._axes(_MANY, _MANY), self._axes(2, 3))
    y = self._node("Slice", x.name, *ends, self._axes(stride, stride))
    pads = self._axes(0, 0, 0, 0, 0, added, 0, 0)
    return Value(self._node("Pad", y, pads), True)

  def mean_over_space(self, x: Value) -> Value:
    return Value(self._node("ReduceMean", x.name, self._axes(2, 3), keepdims=0))

  def scale(self, x: Value, factor: float) -> Value:
    return x._replace(name=self._node("Mul", x.name, self._number(factor)))

  def embed(self, tokens: Value, table: Weight, place: Weight) -> Value:
    index = self._node("Cast", tokens.name, to=onnx.TensorProto.INT32)
    x = self._node("Gather", table.name, index)
    return Value(self._node("Add", x, place.name))

  def attention(
    self, query: Value, key: Value, value: Value, heads: int, length: int
  ) -> Value:
    def divided(x: Value, order: Sequence[int]) -> str:
      y = self._node("Reshape", x.name, self._axes(0, 0, heads, -1))
      return self._node("Transpose", y, perm=order)

    q, v = (divided(x, [0, 2, 1, 3]) for x in (query, value))
    scores = self._node("MatMul", q, divided(key, [0, 2, 3, 1]))
    mask = np.triu(np.full((length, length), -np.inf, np.float32), 1)
    scores = self._node("Add", scores, self._constant(mask))
    y = self._node("MatMul", self._node("Softmax", scores, axis=-1), v)
    y = self._node("Transpose", y, perm=[0, 2, 1, 3])
    return Value(self._node("Reshape", y, self._axes(0, 0, -1)))

  def last_position(self, x: Value) -> Value:
    last = self._constant(np.array(-1, np.int64))
    return Value(self._node("Gather", x.name, last, axis=1))
