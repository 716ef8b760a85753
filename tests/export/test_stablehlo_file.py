"""StableHLO programs say what the library says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.export import stablehlo_file
from tests import tiny
from tests.files.packed_files import (
  BUILT_IN,
  FOLLOWED,
  assert_close,
  info_of,
  samples_of,
  save_built_in,
  variables_of,
)

# Few of each kind: to compile takes the time.
FEW = [info_of(), FOLLOWED, info_of("normed", 1)]
OTHERS = [
  pytest.param(info, marks=pytest.mark.slow)
  for info in BUILT_IN
  if info.model not in ("mlp", "cnn2")
]


@pytest.mark.parametrize("info", [*FEW, *OTHERS], ids=lambda info: info.model)
def test_logits_are_the_librarys(info, tmp_path):
  save_built_in(tmp_path / "m", info)
  packed = qj.load_packed(tmp_path / "m")
  program = jax.export.deserialize(bytearray(stablehlo_file.encode(packed)))
  for count in (1, 3):
    samples = samples_of(info, count)
    expected = packed.predict(samples)
    assert_close(np.asarray(program.call(samples)), expected)


def test_a_program_is_for_all_platforms_and_any_batch(tmp_path):
  info = info_of()
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  data = stablehlo_file.encode(qj.load_packed(tmp_path / "m"))
  program = jax.export.deserialize(bytearray(data))
  assert program.platforms == ("cpu", "cuda", "tpu")
  assert [str(x) for x in program.in_avals] == ["float32[batch,6]"]
  assert [str(x) for x in program.out_avals] == ["float32[batch,4]"]


def test_a_network_that_cannot_be_exported_is_named(tmp_path):
  def calling(classes, **_):
    def apply(params, stats, inputs, train):
      shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
      inputs = jax.pure_callback(
        np.sin, shape, inputs, vmap_method="expand_dims"
      )
      return inputs @ params["kernel"], stats

    params = {"kernel": jnp.ones((6, tiny.CLASSES))}
    return qj.Model("calling", lambda *_: (params, {}), apply, lambda _: False)

  qj.register_model("calling", calling)
  info = info_of("calling", 32)
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  with pytest.raises(ValueError, match="'calling': must be a network that JAX"):
    stablehlo_file.encode(qj.load_packed(tmp_path / "m"))
