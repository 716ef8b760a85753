"""Exported models, run beside the library: whether they say the same."""

import dataclasses

import jax
import jax.export
import numpy as np

from quped_jax.files.packed import PackedModel

# Of the largest logit, or of 1: the rounding of what networks compute in.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
_BATCHES = (1, 3)


def difference(packed: PackedModel, format: str, data: bytes) -> float:
  """How far an exported model's logits are from the library's.

  Args:
    packed: the model.
    format: "onnx" or "stablehlo".
    data: the exported model.

  Returns:
    The largest difference of two logits, over batches of random samples of
    several sizes, relative to the largest logit if that is more than 1.

  Raises:
    ValueError: the exported model says something else.
  """
  info = packed.info
  if format == "onnx":
    # What is exported computes in float32.
    info = dataclasses.replace(info, compute_dtype="float32")
  found = 0.0
  # Accelerators may round more than float32 does.
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    for size in _BATCHES:
      samples = _samples(packed, size)
      expected = packed._replace(info=info).predict(samples)
      logits = _run(format, data, samples)
      if logits.shape != expected.shape:
        raise ValueError(
          f"{format}: must have logits {expected.shape}; it has {logits.shape}"
        )
      scale = max(1.0, float(np.abs(expected).max()))
      found = max(found, float(np.abs(logits - expected).max()) / scale)
  if not found <= _TOLERANCE[info.compute_dtype]:
    raise ValueError(
      f"{format}: must have the library's logits; they differ by {found:.2g} "
      "of the largest"
    )
  return found


def _samples(packed: PackedModel, size: int) -> np.ndarray:
  """Random samples, such as a dataset may have."""
  rng, shape = np.random.default_rng(size), packed.info.input_shape
  if packed.info.model == "transformer":
    draws = rng.integers(packed.info.num_classes, size=(size, *shape))
  else:
    draws = rng.normal(size=(size, *shape))
  return (draws * packed.std + packed.mean).astype(np.float32)


def _run(format: str, data: bytes, samples: np.ndarray) -> np.ndarray:
  if format == "stablehlo":
    return np.asarray(jax.export.deserialize(bytearray(data)).call(samples))
  import onnxruntime

  session = onnxruntime.InferenceSession(
    data, providers=["CPUExecutionProvider"]
  )
  (logits,) = session.run(None, {session.get_inputs()[0].name: samples})
  return np.asarray(logits)
