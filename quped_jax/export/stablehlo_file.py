"""Packed models as StableHLO programs, which JAX alone can run.

A program is one function of raw samples, which holds everything else: weights,
statistics, normalisation. Its batch may have any size, and it runs on CPUs,
CUDA and TPU. `jax.export.deserialize` reads it, with no other library.
"""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp

from quped_jax.files.packed import PackedModel

_PLATFORMS = ("cpu", "cuda", "tpu")


def encode(packed: PackedModel) -> bytes:
  """A program's bytes.

  Args:
    packed: a model of any network that is known by name.

  Raises:
    ValueError: a network that JAX cannot export.
  """
  # In the form that is common to all platforms.
  info = dataclasses.replace(packed.info, conv="native")
  model = info.create()

  def predict_one(sample):
    # A batch of one: networks may ask for its size, which is not known of all.
    inputs = ((sample - packed.mean) / packed.std)[None]
    return model.apply(packed.params, packed.stats, inputs, False)[0][0]

  (batch,) = jax.export.symbolic_shape("batch")
  inputs = jax.ShapeDtypeStruct((batch, *info.input_shape), jnp.float32)
  export = jax.export.export(
    jax.jit(jax.vmap(predict_one)), platforms=_PLATFORMS
  )
  try:
    return bytes(export(inputs).serialize())
  except Exception as error:  # Networks of users can fail anywhere.
    raise ValueError(
      f"model={info.model!r}: must be a network that JAX can export ({error})"
    ) from error
