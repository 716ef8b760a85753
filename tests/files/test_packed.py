"""Packed model files: exact, small, and refused unless they are correct."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.experiment import client_types
from quped_jax.quantization import codebook
from tests import tiny
from tests.files.packed_files import (
  INFOS,
  info_of,
  same_bits,
  variables_of,
)
from tests.hostile import cases


@pytest.mark.parametrize("info", INFOS, ids=str)
def test_a_model_comes_back_to_the_bit(info, tmp_path):
  path = tmp_path / "model.safetensors"
  params, stats = variables_of(info)
  mean, std = np.asarray(0.1, np.float32), np.full(info.input_shape, 0.7, "f")
  qj.save_packed(path, params, stats, info, mean=mean, std=std)
  packed = qj.load_packed(path)
  assert packed.info == info
  assert same_bits((packed.params, packed.stats), (params, stats))
  assert same_bits((packed.mean, packed.std), (mean, std))
  again = tmp_path / "again.safetensors"
  qj.save_packed(again, *packed[1:3], info, mean=packed.mean, std=packed.std)
  assert again.read_bytes() == path.read_bytes()
  assert sorted(os.listdir(tmp_path)) == [
    "again.safetensors",
    "model.safetensors",
  ]


@given(st.data())
@cases(50, 1000)
def test_any_float_is_a_level(tmp_path_factory, data):
  """Minus zero, denormals, infinities and every NaN, in tensors of any size."""
  bits = data.draw(st.integers(1, 8))
  rows, columns = (data.draw(st.integers(1, 9)) for _ in range(2))
  granularity = data.draw(st.sampled_from(codebook.GRANULARITIES))
  special = st.sampled_from([0, 2**31, 1, 0x7F800000, 0x7FC00001, 0xFFFFFFFF])
  pattern = st.one_of(special, st.integers(0, 2**32 - 1))
  palettes = data.draw(
    st.lists(
      st.lists(pattern, min_size=1, max_size=2**bits),
      min_size=columns,
      max_size=columns,
    )
  )
  seed = data.draw(st.integers(0, 2**32))
  rng = np.random.default_rng(seed)
  if granularity == "tensor":
    palettes = palettes[:1] * columns
  kernel = np.stack(
    [rng.choice(np.array(p, np.uint32), rows) for p in palettes], axis=1
  ).view(np.float32)
  info = qj.ModelInfo(
    *("bare", columns, (rows,)),
    options={"rows": rows, "columns": columns},
    bits=bits,
    granularity=granularity,
  )
  path = tmp_path_factory.getbasetemp() / "any.safetensors"
  qj.save_packed(path, {"kernel": kernel}, {}, info)
  assert same_bits(qj.load_packed(path).params, {"kernel": kernel})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "bool"])
def test_other_types_stay_as_they_are(dtype, tmp_path):
  kernel = jnp.asarray([[0, 1, 1]], dtype)
  model = qj.Model(
    "typed",
    lambda key, inputs: ({"kernel": jnp.zeros((1, 3), dtype)}, {}),
    lambda params, stats, inputs, train: (inputs @ params["kernel"], stats),
    lambda path: True,
  )
  qj.register_model("typed", lambda classes, **_: model)
  for bits in (1, 32):
    info = qj.ModelInfo("typed", 3, (1,), bits=bits)
    path = tmp_path / "model.safetensors"
    qj.save_packed(path, {"kernel": kernel}, {}, info)
    assert same_bits(qj.load_packed(path).params, {"kernel": kernel})


@pytest.fixture(scope="module")
def trained():
  """Clients of 1, 2 and 32 bits after a round, with their models."""
  made = tiny.tiny("quped", num_clients=3, bits=(1, 2, 32))
  state = made.play()
  models = list(made.simulation.primary_models(state))
  return made, state, models


@pytest.mark.slow
def test_logits_are_the_same(trained, tmp_path):
  made, _, models = trained
  inputs = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
  compiled = jax.jit(lambda params: made.model.apply(params, {}, inputs, False))
  for own, bits in zip(models, made.settings.bits, strict=True):
    path = tmp_path / f"{own.client_id}.safetensors"
    info = info_of(bits=bits)
    qj.save_packed(path, own.params, own.stats, info, mean=1.0, std=2.0)
    packed = qj.load_packed(path)
    expected = np.asarray(compiled(own.params)[0])
    np.testing.assert_array_equal(compiled(packed.params)[0], expected)
    raw = 2 * inputs + 1
    for size in (7, 40, 100):
      logits = packed.predict(raw, batch_size=size)
      assert logits.shape == (40, tiny.CLASSES)
      np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_normalisation_is_stored_as_it_reads(tmp_path):
  info = qj.ModelInfo("mlp", 3, (2, 3), {"features": ()})
  mean = np.arange(6, dtype=np.float32).reshape(3, 2).T
  qj.save_packed(tmp_path / "m", *variables_of(info), info, mean=mean)
  np.testing.assert_array_equal(qj.load_packed(tmp_path / "m").mean, mean)


def test_samples_of_bytes_are_normalised(tmp_path):
  info = info_of(bits=32)
  params, stats = variables_of(info)
  path = tmp_path / "model.safetensors"
  qj.save_packed(path, params, stats, info, mean=100.0, std=50.0)
  raw = np.random.default_rng(0).integers(0, 256, (5, 6), np.uint8)
  inputs = (raw.astype(np.float32) - 100) / 50
  expected, _ = info.create().apply(params, stats, inputs, False)
  packed = qj.load_packed(path)
  np.testing.assert_allclose(packed.predict(raw), expected, rtol=1e-4)
  np.testing.assert_allclose(packed.predict(raw.tolist()), expected, rtol=1e-4)


@pytest.mark.parametrize(
  ("inputs", "message"),
  [
    (np.zeros((3, 7)), r"inputs.shape=\(3, 7\): must be \[samples, 6\]"),
    (np.zeros(6), r"inputs.shape=\(6,\)"),
    (np.zeros((0, 6)), "at least one sample"),
    (np.float32(3), r"inputs.shape=\(\)"),
    (np.full((2, 6), "a"), "inputs.dtype=.*must be real numbers"),
    (np.full((2, 6), np.nan), "inputs: must be finite"),
    (np.full((2, 6), 1e300), "inputs: must be finite"),
    (np.ma.masked_all((2, 6)), "inputs: must have no masked entries"),
    ([[1.0] * 6, [1.0]], "inputs: must be an array, or lists of the same"),
  ],
)
def test_samples_that_do_not_fit_are_errors(inputs, message, tmp_path):
  info = info_of()
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  with pytest.raises(ValueError, match=message):
    qj.load_packed(tmp_path / "m").predict(inputs)


def test_samples_may_be_of_a_type_that_numpy_does_not_have(tmp_path):
  info = info_of()
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  packed = qj.load_packed(tmp_path / "m")
  raw = jnp.arange(12, dtype=jnp.bfloat16).reshape(2, 6)
  np.testing.assert_array_equal(
    packed.predict(raw), packed.predict(np.asarray(raw, np.float32))
  )


SIZED = [
  ("mlp", (64,), 10, {"features": (64, 64)}),
  ("mlp", (64,), 10, {"features": (3, 3, 3)}),
  ("cnn1", (28, 28, 1), 10, {}),
  ("resnet20", (32, 32, 3), 10, {}),
]


@pytest.mark.parametrize("granularity", codebook.GRANULARITIES)
@pytest.mark.parametrize(
  ("name", "shape", "classes", "options"), SIZED, ids=str
)
def test_files_are_as_small_as_they_say(
  name, shape, classes, options, granularity, tmp_path
):
  path = tmp_path / "model.safetensors"
  for bits in (1, 3, 8, 32):
    info = qj.ModelInfo(
      name,
      classes,
      shape,
      options,
      bits=bits,
      granularity=granularity,
      dataset="fashion_mnist",
      method="fedgkd_vote",
      client=99999,
      variant="personalized",
    )
    params, stats = variables_of(info)
    qj.save_packed(path, params, stats, info, mean=np.zeros(shape[-1]))
    stored = len(safetensors.numpy.load_file(path))
    size = path.stat().st_size
    packed = client_types.model_bytes(
      params,
      stats,
      info.create().is_quantized,
      bits,
      channelwise=granularity == "channel",
    )
    assert packed <= size <= 1.02 * packed + 4096 + 160 * stored


def wrong(params, change):
  params = jax.tree.map(np.copy, params)
  change(params)
  return params


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: p.pop("last"), "'params/last/bias': must be F32 .*is absent"),
    (
      lambda p: p["last"].update(bias=np.zeros(5, np.float32)),
      r"'params/last/bias': must be F32 \[4\] .*it is F32 \[5\]",
    ),
    (lambda p: p["last"].update(bias=np.zeros(4)), "must be F32 .*is F64"),
    (lambda p: p.update(more=np.zeros(4)), "'params/more': must be absent"),
    (
      lambda p: p["hidden_1"].update(
        kernel=np.arange(64, dtype=np.float32).reshape(8, 8)
      ),
      "'params/hidden_1/kernel': must have at most 4 levels for bits=2; it has",
    ),
  ],
)
def test_what_is_not_the_architectures_is_not_written(
  change, message, tmp_path
):
  params, stats = variables_of(info_of())
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match=message):
    qj.save_packed(path, wrong(params, change), stats, info_of())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("scale", "message"),
  [
    ({"mean": np.zeros(5)}, r"'inputs/mean'.shape=\(5,\): must broadcast"),
    ({"mean": np.zeros((1,) * 40)}, "'inputs/mean'.shape=.* must broadcast"),
    ({"mean": np.nan}, "'inputs/mean': must be finite"),
    ({"std": 0.0}, "'inputs/std': must be positive"),
  ],
)
def test_what_cannot_normalise_is_an_error(scale, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    qj.save_packed(tmp_path / "m", *variables_of(info_of()), info_of(), **scale)
