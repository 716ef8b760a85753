"""Packed files, good and bad, that the tests of their modules share."""

import contextlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.files import container
from quped_jax.quantization import codebook_tree
from tests import tiny  # Registers "normed", with batch normalisation.
from tests.hostile import read_or_refused


def info_of(name="mlp", bits: Any = 2, shape=(6,), **changes):
  if name == "mlp":
    changes.setdefault("options", {"features": (8, 8)})
  return qj.ModelInfo(name, tiny.CLASSES, shape, bits=bits, **changes)


def variables_of(info, seed=0):
  """Random parameters and statistics, with as many levels as allowed."""
  rng = np.random.default_rng(seed)
  model = info.create()
  inputs = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)

  def draw(path, like):
    name = codebook_tree.path_name(path)
    bits = info.bits_of(name) if model.is_quantized(name) else 32
    if bits == 32:
      return rng.normal(size=like.shape).astype(like.dtype)
    channels = like.shape[-1]
    index = rng.integers(0, 2**bits, like.shape)
    if info.granularity == "tensor":
      return rng.normal(size=2**bits).astype(like.dtype)[index]
    levels = rng.normal(size=(channels, 2**bits)).astype(like.dtype)
    return levels[np.arange(channels), index]

  params = jax.tree_util.tree_map_with_path(draw, params)
  stats = jax.tree.map(lambda x: rng.random(x.shape).astype(x.dtype), stats)
  return params, stats


def same_bits(first, second):
  leaves, structure = jax.tree.flatten(first)
  others, other_structure = jax.tree.flatten(second)
  return structure == other_structure and all(
    (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    for x, y in zip(
      map(np.asarray, leaves), map(np.asarray, others), strict=True
    )
  )


def bare(classes, *, image_channels, conv, rows, columns):
  """Nothing but one quantized tensor."""
  del image_channels, conv
  return qj.Model(
    "bare",
    lambda key, inputs: ({"kernel": jnp.zeros((rows, columns))}, {}),
    lambda params, stats, inputs, train: (inputs @ params["kernel"], stats),
    lambda path: True,
  )


qj.register_model("bare", bare)


# By which the samples of these are normalised.
MEAN, STD = 0.5, 0.25

# A network whose features go through another.
FOLLOWED = info_of(
  back=qj.BackInfo("mlp", {"features": (7,)}), variant="quantized"
)

INFOS = [
  *(info_of(bits=bits) for bits in (1, 2, 3, 8, 32)),
  info_of(bits=3, granularity="channel"),
  info_of("normed", bits=1, dataset="d", method="m", client=7, variant="v"),
  info_of("normed", bits=5, granularity="channel"),
  info_of(
    bits={"hidden_1/*": 3, "*_3/*": 32, "*": 1}, options={"features": (8,) * 4}
  ),
  info_of("transformer", bits=4, options={"width": 8, "blocks": 1, "heads": 2}),
  FOLLOWED,
]


# Of each of this package's own networks, at several precisions.
BUILT_IN = [
  info_of(
    bits={"hidden_1/*": 3, "hidden_2/*": 32}, options={"features": (8,) * 3}
  ),
  info_of(shape=(3, 2, 2), bits=1, options={"features": ()}),
  info_of(
    *("cnn1", 2, (7, 9, 3)),
    options={"conv_features": (3, 4), "dense_features": ()},
    granularity="channel",
  ),
  info_of(
    *("cnn1", 3, (17, 20, 1)),
    options={
      "conv_features": (3, 4),
      "dense_features": (5,),
      "padding": "valid",
    },
  ),
  info_of(
    *("cnn2", {"hidden_1/*": 1, "*": 5}, (8, 8, 1)),
    options={"conv_features": (3, 4, 5, 6), "dense_features": (7, 5)},
  ),
  info_of("resnet8", 1, (8, 6, 3)),
  info_of("transformer", 4, options={"width": 8, "blocks": 2, "heads": 2}),
  FOLLOWED,
]


def assert_close(logits, expected):
  """That two programs have the same logits, up to the rounding of float32."""
  assert logits.dtype == expected.dtype and np.isfinite(expected).all()
  scale = max(1, np.abs(expected).max())
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * scale)


def samples_of(info, count):
  """Random samples of a network's, before they are normalised."""
  rng = np.random.default_rng(count)
  if info.model == "transformer":
    draws = rng.integers(tiny.CLASSES, size=(count, *info.input_shape))
  else:
    draws = rng.normal(size=(count, *info.input_shape))
  return (draws * STD + MEAN).astype(np.float32)


def save_built_in(path, info):
  """Writes a model whose logits are of moderate size."""
  params, stats = variables_of(info)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x / 5 if "kernel" in jax.tree_util.keystr(path) else x,
    params,
  )
  stats = jax.tree.map(lambda x: x + np.float32(0.5), stats)
  qj.save_packed(path, params, stats, info, mean=MEAN, std=STD)


def refused(path, message=None):
  with pytest.raises(ValueError, match=message) as error:
    qj.load_packed(path)
  assert str(error.value).startswith(f"path={os.fspath(path)!r}: must be a ")
  assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def parts(data):
  """A file's header, our metadata in it, and the bytes of its tensors."""
  end = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:end])
  return header, json.loads(header["__metadata__"]["quped_jax"]), data[end:]


def build(header, about, tensors):
  """The inverse of `parts`, with the right checksum; about may be any text."""
  if not isinstance(about, str):
    about = json.dumps({**about, "sha256": "0" * 64}, separators=(",", ":"))
  header = {**header, "__metadata__": {"quped_jax": about}}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  data = bytearray(len(text).to_bytes(8, "little") + text + tensors)
  # A text without a place for a checksum gets none.
  with contextlib.suppress(ValueError):
    container.seal(data)
  return bytes(data)


def measured(path):
  """What a file holds, or None if refused; checks that memory stays small."""
  return read_or_refused(
    lambda: qj.load_packed(path), f"path={os.fspath(path)!r}: must be a packed"
  )
