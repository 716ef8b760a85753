"""Packed model files: exact, small, and refused unless they are correct."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.experiment import client_types
from quped_jax.files import format as format_lib
from quped_jax.models import hidden_kernels
from quped_jax.quantization import codebook
from tests import tiny
from tests.files.packed_files import (
  INFOS,
  build,
  info_of,
  parts,
  refused,
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


def test_another_format_is_named(files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][0][0])
  for number in (3, 0, 1.0, True, "2", None):
    path.write_bytes(build(header, {**about, "format": number}, tensors))
    refused(path, f"its format is {number!r}, and not 1 or 2, those that are")
  # The library's version is only for human readers.
  path.write_bytes(build(header, {**about, "library": "9.9"}, tensors))
  qj.load_packed(path)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": "lenet"}, "model='lenet': must be one of"),
    ({"model": "os.system"}, "model='os.system': must be one of"),
    ({"num_classes": 5}, "'params/last/bias': must be F32 .5. for this arch"),
    ({"num_classes": 10**9}, "1000000000: must be at most .* in a file of its"),
    ({"options": {"features": [10**9]}}, "1000000000: must be at most"),
    ({"options": {"features": [-(10**9)]}}, "-1000000000: must be at most"),
    ({"options": {"features": [2] * 257}}, "at most 256 layers"),
    ({"options": {"features": [8, "8"]}}, "model='mlp': must be made of"),
    ({"options": {"features": [8.0, 8]}}, "model='mlp': must be made of"),
    ({"options": {"nope": 1}}, "model='mlp': must be made of .*nope"),
    ({"options": {"conv": "shift"}}, "must be without 'conv'"),
    ({"bits": 1}, "'params/hidden_1/kernel.levels': must be F32 .2."),
    ({"bits": 32}, "'params/hidden_1/kernel': must be F32 .8, 8."),
    ({"granularity": "channel"}, "kernel.levels': must be F32 .8, 4."),
    ({"input_shape": [7]}, "'params/first/kernel': must be F32 .7, 8."),
    ({"input_shape": [10**6, 10**6]}, "must be of at most"),
    ({"conv": "x"}, "model='mlp': must be made of"),
    ({"more": 1}, "its metadata is not of bits, client"),
  ],
)
def test_what_metadata_claims_is_checked(changes, message, files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][1][0])
  assert about["bits"] == 2 and about["model"] == "mlp"
  path.write_bytes(build(header, {**about, **changes}, tensors))
  refused(path, message)


def test_no_width_exceeds_the_bits_of_its_file(files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][1][0])
  path.write_bytes(build(header, {**about, "num_classes": 10**9}, tensors))
  refused(path, f"1000000000: must be at most {8 * path.stat().st_size} in")


@pytest.mark.parametrize("dtype", ["I32", "F16"])
def test_what_normalises_is_of_one_type(dtype, files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][1][0])
  place = header["inputs/mean"]
  begin, end = place["data_offsets"]
  size = 1 if dtype == "I32" else 2
  other = {**place, "dtype": dtype, "shape": [(end - begin) // 4 * size]}
  path.write_bytes(build({**header, "inputs/mean": other}, about, tensors))
  refused(path, "'inputs/mean': must be there, of type F32")


def test_an_error_quotes_little_of_a_file(files, tmp_path):
  path = tmp_path / "model.safetensors"
  header, about, tensors = parts(files[0][1][0])
  path.write_bytes(build(header, {**about, "model": "x" * 5000}, tensors))
  refused(path, r"model='xxx.*x\.\.\.\)$")


BLOCKS = {"width": 8, "blocks": 256, "heads": 2}


@pytest.mark.parametrize(
  ("name", "options", "more", "message"),
  [
    ("transformer", BLOCKS, 0, "4102 tensors at least; there are 22"),
    ("transformer", BLOCKS, 300, "4102 tensors at least; there are 322"),
    ("layered", {"blocks": 256}, 0, "256 tensors at least; there are 22"),
    ("mlp", {"features": [1] * 256}, 0, "256 tensors at least; there are 22"),
  ],
)
def test_layers_without_tensors_are_not_traced(
  name, options, more, message, files, tmp_path, monkeypatch
):
  """A small file cannot ask for a network that takes seconds to trace."""
  traced = []

  def layered(classes, *, blocks, **_):
    traced.append(blocks)
    return qj.create_model("mlp", classes, features=(1,) * blocks)

  qj.register_model("layered", layered)
  make = format_lib.make_plan
  monkeypatch.setattr(
    format_lib,
    "make_plan",
    lambda info: traced.append(info.layers()) or make(info),
  )
  content = next(x for x, good in files[0] if good.info.model == "transformer")
  header, about, tensors = parts(content)
  at = len(tensors)
  for i in range(more):
    place = {"dtype": "U8", "shape": [1], "data_offsets": [at + i, at + i + 1]}
    header[f"stats/{i}"] = place
  about |= {"model": name, "options": options}
  path = tmp_path / "model.safetensors"
  path.write_bytes(build(header, about, tensors + b"\0" * more))
  refused(path, None)
  with pytest.raises(ValueError) as error:
    qj.load_packed(path)
  assert message in str(error.value.__cause__)
  assert max(traced, default=0) <= 2


def test_a_network_of_many_layers_has_its_file(tmp_path):
  info = info_of(
    "transformer",
    bits=1,
    options={"width": 4, "blocks": 6, "heads": 2},
    granularity="channel",
  )
  params, stats = variables_of(info)
  qj.save_packed(tmp_path / "m", params, stats, info)
  assert same_bits(qj.load_packed(tmp_path / "m").params, params)


@pytest.mark.parametrize("blocks", [32, 33])
def test_layers_of_a_registered_network_may_share_tensors(blocks, tmp_path):
  """Not of any number: what is written can be read."""

  def shared(classes, *, blocks, **_):
    return qj.Model(
      "shared",
      lambda key, inputs: ({"kernel": jnp.zeros((classes, classes))}, {}),
      lambda params, stats, inputs, train: (
        inputs[:, :classes] @ jnp.linalg.matrix_power(params["kernel"], blocks),
        stats,
      ),
      lambda path: True,
    )

  qj.register_model("shared", shared)
  info = info_of("shared", bits=32, options={"blocks": blocks})
  model = {"kernel": np.eye(tiny.CLASSES, dtype=np.float32)}
  if blocks == 32:
    qj.save_packed(tmp_path / "m", model, {}, info)
    assert same_bits(qj.load_packed(tmp_path / "m").params, model)
    return
  with pytest.raises(ValueError, match="33 layers must have 33 tensors at lea"):
    qj.save_packed(tmp_path / "m", model, {}, info)


MIXED = {"hidden_1/*": 2, "hidden_2/*": 32, "*": 4}


def mixed(bits=MIXED, seed=0, **changes):
  """A model whose hidden layers have 2, 32 and 4 bits."""
  info = info_of(options={"features": (8, 8, 8, 8)}, bits=bits, **changes)
  params, stats = variables_of(info_of(options=info.options, bits=32), seed)
  codebooks = qj.init_codebooks(
    params, hidden_kernels, MIXED, granularity=info.granularity
  )
  return qj.hard_quantize_tree(params, codebooks), stats, info


@pytest.mark.parametrize("granularity", codebook.GRANULARITIES)
def test_every_tensor_is_stored_at_its_own_bits(granularity, tmp_path):
  """As `init_codebooks` takes them: by pattern."""
  path = tmp_path / "model.safetensors"
  params, stats, info = mixed(granularity=granularity)
  qj.save_packed(path, params, stats, info)
  packed = qj.load_packed(path)
  assert packed.info == info and packed.info.bits == MIXED
  assert same_bits(packed.params, params)
  header, about, _ = parts(path.read_bytes())
  assert header["params/hidden_1/kernel.planes"]["shape"] == [2, 8]
  assert header["params/hidden_2/kernel"]["shape"] == [8, 8]
  assert header["params/hidden_3/kernel.planes"]["shape"] == [4, 8]
  assert about["quantized"] == {
    "params/hidden_1/kernel": {"bits": 2, "shape": [8, 8]},
    "params/hidden_3/kernel": {"bits": 4, "shape": [8, 8]},
  }
  with pytest.raises(ValueError, match="must have at most 4 levels for bits=2"):
    qj.save_packed(path, params, stats, mixed({"*": 2}, seed=1)[2])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"bits": {"*": 2}}, "'params/hidden_2/kernel': must be absent"),
    ({"bits": {"hidden_1/*": 2}}, "no pattern matches the quantized 'hidden_2"),
    ({"bits": {}}, "bits={}: must be precisions by patterns"),
    ({"bits": {**MIXED, "*": 4.0}}, r"bits\['\*'\]=4.0: must be a whole"),
    ({"bits": {**MIXED, "*": True}}, r"bits\['\*'\]=True: must be a whole"),
    ({"bits": {**MIXED, "*": 9}}, r"bits\['\*'\]=9: must be from 1 to 8"),
    ({"bits": dict.fromkeys(map(str, range(1025)), 4)}, "at most 1024"),
    ({"bits": [2, 4]}, r"bits=\(2, 4\): must be a whole number"),
    (
      {"quantized": {}},
      "quantized={}: must be the bits and shapes of params/h",
    ),
    ({"quantized": None}, "quantized=None: must be the bits and shapes"),
    ({"activations": ["gelu"]}, r"activations=\['gelu'\]: must be \['relu'\]"),
    ({"activations": [1]}, r"activations\[0\]=1: must be text"),
    ({"activations": "relu"}, "activations='relu': must be a list"),
  ],
)
def test_what_a_file_says_of_its_tensors_is_so(changes, message, tmp_path):
  path = tmp_path / "model.safetensors"
  qj.save_packed(path, *mixed())
  header, about, tensors = parts(path.read_bytes())
  path.write_bytes(build(header, {**about, **changes}, tensors))
  refused(path, message)


@pytest.mark.parametrize("wrong", [True, 2.0, "2", 3])
def test_bits_of_a_tensor_are_taken_for_no_other_number(wrong, tmp_path):
  path = tmp_path / "model.safetensors"
  qj.save_packed(path, *mixed())
  header, about, tensors = parts(path.read_bytes())
  about["quantized"]["params/hidden_1/kernel"]["bits"] = wrong
  path.write_bytes(build(header, about, tensors))
  refused(path, "quantized=.*: must be the bits and shapes of")


def test_a_file_says_its_networks_activations(tmp_path):
  path = tmp_path / "model.safetensors"
  for name, shape, expected in (
    ("mlp", (6,), ["relu"]),
    ("cnn2", (8, 8, 1), ["relu"]),
    ("resnet8", (8, 8, 1), ["relu"]),
    ("transformer", (6,), ["gelu_tanh"]),
    ("normed", (6,), []),  # Registered, and it does not say.
  ):
    info = info_of(name, shape=shape, bits=32)
    qj.save_packed(path, *variables_of(info), info)
    header, about, tensors = parts(path.read_bytes())
    assert about["activations"] == expected, name
    if not expected:
      about["activations"] = ["tanh"]
      path.write_bytes(build(header, about, tensors))
      qj.load_packed(path)


def test_a_file_of_format_1_is_read():
  """As it was written by the version that had this format."""
  path = pathlib.Path(__file__).with_name("format_1.safetensors")
  assert parts(path.read_bytes())[1]["format"] == 1

  def ramp(*shape):
    return (np.arange(np.prod(shape), dtype=np.float32) - 7).reshape(shape) / 8

  levels = np.array([-0.5, -0.0, 0.25, 1.5], np.float32)
  packed = qj.load_packed(path)
  assert packed.info == qj.ModelInfo(
    *("mlp", 3, (3,), {"features": (5, 4)}),
    bits=2,
    dataset="digits",
    method="quped",
    client=7,
    variant="personalized",
  )
  expected = {
    "first": {"kernel": ramp(3, 5), "bias": ramp(5)},
    "hidden_1": {
      "kernel": levels[(np.arange(20) * 7 % 4).reshape(5, 4)],
      "bias": ramp(4),
    },
    "last": {"kernel": ramp(4, 3), "bias": ramp(3)},
  }
  assert same_bits((packed.params, packed.stats), (expected, {}))
  assert packed.mean == np.float32(0.5)
  np.testing.assert_array_equal(packed.std, [1, 2, 4])


def test_format_1_says_only_what_it_said(tmp_path):
  path = tmp_path / "model.safetensors"
  source = pathlib.Path(__file__).with_name("format_1.safetensors")
  header, about, tensors = parts(source.read_bytes())
  for changes, message in (
    ({"quantized": {}}, "its metadata is not of"),
    ({"bits": {"*": 2}}, "bits: must be one number in format 1"),
    ({"format": 2}, "its metadata is not of"),
  ):
    path.write_bytes(build(header, {**about, **changes}, tensors))
    refused(path, message)
