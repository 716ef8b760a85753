"""What a packed file says of its model is so, and is enough."""

import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.files import format as format_lib
from quped_jax.files.info import layers_of
from quped_jax.models import hidden_kernels
from quped_jax.quantization import codebook
from tests import tiny
from tests.files.packed_files import (
  FOLLOWED,
  build,
  info_of,
  parts,
  refused,
  same_bits,
  variables_of,
)


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
    ({"more": 1}, "its metadata is not of back, bits, cli"),
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
    lambda info: traced.append(layers_of(info.options)) or make(info),
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


@pytest.mark.slow
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


def test_a_network_that_is_followed_by_another_comes_back(tmp_path):
  path, info = tmp_path / "model.safetensors", FOLLOWED
  params, stats = variables_of(info)
  qj.save_packed(path, params, stats, info)
  packed = qj.load_packed(path)
  assert packed.info == info
  assert same_bits((packed.params, packed.stats), (params, stats))
  about = parts(path.read_bytes())[1]
  assert list(about["quantized"]) == ["params/client/hidden_1/kernel"]
  assert about["back"] == {"model": "mlp", "options": {"features": [7]}}
  # As its layers say, from the features of the one through the other.
  x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
  found, expected = packed.predict(x), x
  for part, names in (
    ("client", ("first", "hidden_1")),
    ("server", ("first", "last")),
  ):
    for name in names:
      layer = params[part][name]
      expected = expected @ layer["kernel"] + layer["bias"]
      expected = expected if name == "last" else np.maximum(expected, 0)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("back", "message"),
  [
    ("mlp", "back='mlp': must be of model, options, or null"),
    ({"model": "mlp"}, "back=.*: must be of model, options, or null"),
    ({"model": "mlp", "options": {}, "bits": 1}, "must be of model, options"),
    ({"model": 3, "options": {}}, "back.model=3: must be text"),
    ({"model": "mlp", "options": []}, r"back.options=\[\]: must be a mapping"),
    ({"model": "lenet", "options": {}}, "model='lenet': must be one of"),
    (None, "'params/client/.*': must be absent for this architecture"),
    (
      {"model": "mlp", "options": {"features": [8]}},
      "'params/server/first/bias': must be F32 .8.",
    ),
    (
      {"model": "mlp", "options": {"features": [10**9]}},
      "1000000000: must be at most",
    ),
    (
      {"model": "mlp", "options": {"features": [2] * 257}},
      "back.options.'features'.: must be of at most 256 layers",
    ),
    (
      {"model": "mlp", "options": {"features": [2] * 100}},
      "102 layers must have 102 tensors at least",
    ),
    ({"model": "mlp", "options": {"x": 1}}, "must be made of .*x"),
    ({"model": "bare", "options": {"rows": 8}}, "must be made of"),
  ],
)
def test_what_a_file_says_of_the_network_that_follows_is_so(
  back, message, tmp_path
):
  path, info = tmp_path / "model.safetensors", FOLLOWED
  qj.save_packed(path, *variables_of(info), info)
  header, about, tensors = parts(path.read_bytes())
  path.write_bytes(build(header, {**about, "back": back}, tensors))
  refused(path, message)
