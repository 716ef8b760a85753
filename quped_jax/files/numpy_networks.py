"""Forward passes of quped_jax's own networks, with NumPy alone.

This file needs nothing else of quped_jax: copy it and `numpy_reader.py` to
where the model shall run.

    packed = numpy_reader.read("client_00012.safetensors")
    logits = numpy_networks.predict(packed, images)  # As in the dataset.

Passes are in float32, also where a model was trained to compute in bfloat16.

A network is written once, over the operations that it is made of. Other
operations of the same names do something else with it: those of quped_jax's
export to ONNX write a graph.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_POOLED = 2  # Convolutions of a CNN that are followed by pooling.


def predict(packed: Any, inputs: Any, batch_size: int = 100) -> np.ndarray:
  """Logits of samples.

  Args:
    packed: what `numpy_reader.read` returned.
    inputs: `[samples, ...]`, at least one, as in the dataset: not normalised.
    batch_size: samples seen at once; memory depends on it.

  Returns:
    float32 `[samples, classes]`.

  Raises:
    ValueError: a network that is not known here, or inputs of another shape.
  """
  check_name(packed.about)
  inputs, shape = np.asarray(inputs), tuple(packed.about["input_shape"])
  if inputs.shape[1:] != shape or not len(inputs):
    raise ValueError(
      f"inputs.shape={inputs.shape}: must be [samples, "
      f"{', '.join(map(str, shape))}], at least one sample, for this model"
    )
  logits = []
  for begin in range(0, len(inputs), batch_size):
    batch = inputs[begin : begin + batch_size].astype(np.float32)
    batch = (batch - packed.mean) / packed.std
    logits.append(
      forward(Operations(), packed.about, packed.params, packed.stats, batch)
    )
  return np.concatenate(logits)


def check_name(about: Mapping[str, Any]) -> None:
  """Raises a ValueError if a network, or one that follows, is not known."""
  for network in (about, about.get("back")):
    if network is not None and network["model"] not in _NETWORKS:
      raise ValueError(
        f"model={network['model']!r}: must be one of {', '.join(_NETWORKS)}, "
        "whose forward passes are known here"
      )


def forward(
  ops: Any, about: Mapping[str, Any], params: Any, stats: Any, inputs: Any
) -> Any:
  """A network's logits.

  Args:
    ops: computes its operations, such as `Operations()`.
    about: says which network it is: its `model`, its `options`, and `back`, the
      network that takes its features in place of its last layer, if any.
    params: its parameters.
    stats: its statistics.
    inputs: normalised samples `[batch, ...]`.
  """
  network = _NETWORKS[about["model"]]
  back = about.get("back")
  own = params["client"] if back else params
  features = network(ops, about["options"], own, stats, inputs)
  if back:
    return forward(ops, back, params["server"], {}, features)
  return ops.dense(features, params["last"])


def _layered(ops, options, params, stats, x):
  """The features of a multilayer perceptron or a CNN."""
  del stats
  padded = options.get("padding", "same") == "same"
  names = (f"hidden_{i}" if i else "first" for i in range(len(params)))
  for index, name in enumerate(names):
    if name not in params:
      break
    layer = params[name]
    if layer["kernel"].ndim == 4:
      x = ops.conv(x if index else ops.images(x), layer, padded=padded)
      x = ops.relu(ops.pool(x) if index < _POOLED else x)
    else:
      x = ops.relu(ops.dense(ops.flatten(x), layer))
  return ops.flatten(x)


def _resnet(ops, options, params, stats, x):
  """The features of a residual network."""
  del options
  x = ops.conv(ops.images(x), params["first"])
  x = ops.relu(ops.batch_norm(x, params["first_norm"], stats["first_norm"]))
  for name in sorted(name for name in params if name.startswith("stage_")):
    own, norms = params[name], stats[name]
    channels, wider = own["conv_1"]["kernel"].shape[2:]
    stride = 2 if name.endswith("block_1") and "stage_1" not in name else 1
    y = ops.conv(x, own["conv_1"], stride)
    y = ops.relu(ops.batch_norm(y, own["norm_1"], norms["norm_1"]))
    y = ops.batch_norm(
      ops.conv(y, own["conv_2"]), own["norm_2"], norms["norm_2"]
    )
    x = ops.relu(ops.add(y, ops.shortcut(x, stride, wider - channels)))
  return ops.mean_over_space(x)


def _transformer(ops, options, params, stats, x):
  """The features of a transformer, at the last of the tokens."""
  del stats
  heads, place = options.get("heads", 4), params["place"]
  length, width = place.shape
  x = ops.embed(x, params["first"]["embedding"], place)
  for block in range(options.get("blocks", 2)):
    own = {
      part: params[f"block_{block}_{part}"]
      for part in ("norm_1", "query", "key", "value", "out")
      + ("norm_2", "up", "down")
    }
    y = ops.layer_norm(x, own["norm_1"])
    query, key, value = (
      ops.dense(y, own[part]) for part in ("query", "key", "value")
    )
    query = ops.scale(query, (width // heads) ** -0.5)
    y = ops.attention(query, key, value, heads, length)
    x = ops.add(x, ops.dense(y, own["out"]))
    y = ops.dense(ops.layer_norm(x, own["norm_2"]), own["up"])
    x = ops.add(x, ops.dense(ops.gelu(y), own["down"]))
  return ops.layer_norm(ops.last_position(x), params["norm"])


_NETWORKS = {
  **dict.fromkeys(("mlp", "cnn1", "cnn2"), _layered),
  **dict.fromkeys(("resnet8", "resnet20", "resnet32"), _resnet),
  "transformer": _transformer,
}


class Operations:
  """What networks are made of, on arrays `[batch, ...]` with channels last."""

  def images(self, x):
    """Images in the order of axes that convolutions take."""
    return x

  def flatten(self, x):
    return x.reshape(len(x), -1)

  def dense(self, x, layer):
    return x @ layer["kernel"] + layer["bias"]

  def conv(self, x, layer, stride=1, padded=True):
    """Convolves with windows of odd size, perhaps padded to be centred."""
    kernel = layer["kernel"]
    size, _, channels, features = kernel.shape
    pad = (size // 2, size // 2) if padded else (0, 0)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    columns = windows.reshape(-1, size * size * channels)
    y = columns @ kernel.reshape(-1, features)
    y = y.reshape(*windows.shape[:3], features)
    return y + layer["bias"] if "bias" in layer else y

  def pool(self, x):
    """Largest values of windows of 2x2; an odd last row or column is left."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    x = np.maximum(x[:, ::2], x[:, 1::2])
    return np.maximum(x[:, :, ::2], x[:, :, 1::2])

  def batch_norm(self, x, layer, stats):
    scale = layer["scale"] / np.sqrt(stats["var"] + np.float32(1e-5))
    return (x - stats["mean"]) * scale + layer["bias"]

  def layer_norm(self, x, layer):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + np.float32(1e-6))
    return y * layer["scale"] + layer["bias"]

  def relu(self, x):
    return np.maximum(x, 0)

  def gelu(self, x):
    """GELU as approximated by tanh."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    return x * (1 + np.tanh(inner)) / 2

  def add(self, x, y):
    return x + y

  def shortcut(self, x, stride, added):
    """Every second pixel or all, with so many channels of zeros added."""
    return np.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + ((0, added),))

  def mean_over_space(self, x):
    return x.mean(axis=(1, 2))

  def scale(self, x, factor):
    return x * np.float32(factor)

  def embed(self, tokens, table, place):
    """Vectors of tokens, which may be of any number type, with their place."""
    return table[tokens.astype(np.int32)] + place

  def attention(self, query, key, value, heads, length):
    """Causal attention over so many positions."""
    query, key, value = (
      x.reshape(len(x), length, heads, -1).swapaxes(1, 2)
      for x in (query, key, value)
    )
    scores = query @ key.swapaxes(2, 3)
    scores += np.triu(np.full((length, length), -np.inf, np.float32), 1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ value).swapaxes(1, 2)
    return mixed.reshape(len(mixed), length, -1)

  def last_position(self, x):
    return x[:, -1]
