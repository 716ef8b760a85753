"""Packed models as ONNX files, which are about as small.

The graph takes raw samples and holds everything else. Its networks are those of
`numpy_networks`, in float32.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import onnx
from onnx import helper

from quped_jax import version
from quped_jax.export import onnx_graph
from quped_jax.files import codec, numpy_networks
from quped_jax.files import format as format_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.packed import PackedModel

INPUTS, LOGITS = "inputs", "logits"
BATCH = "batch"  # The name of the axis of any size.

# As old as the operations allow, for programs that are not new.
_IR_VERSION = 8
# The last layer of a network that another one follows has no use.
_UNUSED = "params/client/last/"


def encode(packed: PackedModel) -> bytes:
  """An ONNX file's bytes.

  Args:
    packed: a model of a network that is one of this package's own.

  Raises:
    ValueError: another network.
  """
  info = packed.info
  about = dataclasses.asdict(info)
  numpy_networks.check_name(about)
  graph = onnx_graph.Graph()
  x = graph.normalised(INPUTS, packed.mean, packed.std)
  params, stats = _weights(packed, graph)
  logits = numpy_networks.forward(graph, about, params, stats, x)
  graph.result(logits, LOGITS)
  made = helper.make_graph(
    graph.nodes,
    info.model,
    [_described(INPUTS, info.input_shape)],
    [_described(LOGITS, (info.num_classes,))],
    graph.constants,
  )
  model = helper.make_model(
    made,
    producer_name="quped_jax",
    producer_version=version.__version__,
    ir_version=_IR_VERSION,
    opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)],
  )
  helper.set_model_props(model, {"quped_jax": json.dumps(about)})
  onnx.checker.check_model(model, full_check=True)
  return model.SerializeToString()


def _described(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
  return helper.make_tensor_value_info(
    name, onnx.TensorProto.FLOAT, [BATCH, *shape]
  )


def _weights(packed: PackedModel, graph: onnx_graph.Graph) -> tuple[Any, Any]:
  """Parameters and statistics as values of the graph, in the trees' form."""
  plan = format_lib.make_plan(packed.info)
  channelwise = packed.info.granularity == "channel"
  found: dict[str, onnx_graph.Weight | None] = {}
  for name, leaf in weights_lib.named(packed.params, packed.stats).items():
    array = np.asarray(leaf)
    if name.startswith(_UNUSED) and packed.info.back:
      found[name] = None
    elif name in plan.quantized:
      tensor = codec.pack(array, plan.quantized[name], channelwise)
      found[name] = graph.packed(name, tensor, array.shape)
    else:
      found[name] = graph.weight(name, array)
  return weights_lib.from_named(found, plan.params, plan.stats)
