"""Packed files of networks that have no name."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from tests.files.packed_files import build, measured, parts, refused, same_bits
from tests.hostile import NUMBERS, VALUES, cases

RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


PARAMS: Any = {
  "embed": draw(5, 3),
  "layers": [
    {"kernel": draw(9, 4), "bias": np.ones(4, np.float32)},
    {"kernel": draw(4, 2), "bias": np.zeros(2, np.float32)},
  ],
}


def books(tree, bits, channelwise=False) -> Any:
  """Codebooks for all kernels, with more room than levels."""
  if isinstance(tree, list):
    return [books(x, bits, channelwise) for x in tree]
  if isinstance(tree, dict):
    return {
      name: books(x, bits, channelwise)
      if name != "kernel"
      else book(bits, x.shape[-1:] if channelwise else ())
      for name, x in tree.items()
    }
  return optax.MaskedNode()


def book(bits, shape=()):
  centers = np.sort(draw(*shape, 2**bits))
  # What is beyond the levels is padding, and must not count.
  centers = np.pad(centers, [*[(0, 0)] * len(shape), (0, 3)], mode="edge")
  # In an order that those which JAX computes may have in memory.
  unordered: Any = np.asfortranarray(centers)
  return qj.Codebook(unordered, jnp.full(shape, 2**bits))


def nearest(x, codebook):
  """Every weight's nearest level, by brute force."""
  levels = np.asarray(codebook.centers)[..., :-3]
  distances = np.abs(x[..., None] - levels)
  if levels.ndim == 1:
    return levels[distances.argmin(axis=-1)]
  return levels[np.arange(len(levels)), distances.argmin(axis=-1)]


def saved(path, *args, **changes):
  qj.save_packed(path, *args, **changes)
  return qj.load_packed(path)


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("channelwise", [False, True])
def test_any_tree_comes_back_at_its_levels(channelwise, bits, tmp_path):
  codebooks = books(PARAMS, bits, channelwise)
  codebooks["layers"][1]["kernel"] = qj.Codebook(jnp.zeros(4), jnp.int32(0))
  stats = {"mean": np.arange(3.0)}
  packed = saved(
    tmp_path / "m",
    PARAMS,
    stats,
    codebooks=codebooks,
    mean=np.array([1, 2]),
    std=3,
  )
  first, second = PARAMS["layers"]
  given = codebooks["layers"][0]["kernel"]
  first = {**first, "kernel": nearest(first["kernel"], given)}
  expected = {"embed": PARAMS["embed"], "layers": {"0": first, "1": second}}
  assert same_bits((packed.params, packed.stats), (expected, stats))
  assert packed.mean.tolist() == [1, 2] and packed.std == 3
  # The levels, in a codebook with room for them alone.
  own = packed.codebooks["layers"]["0"]["kernel"]
  assert same_bits(own.centers, given.centers[..., :-3])
  assert same_bits(own.levels, given.levels)
  # What is in full precision has none.
  rest = (packed.codebooks["embed"], *packed.codebooks["layers"]["1"].values())
  assert rest == (optax.MaskedNode(),) * 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_levels_are_those_of_the_hard_quantizer(dtype, tmp_path):
  x, centers = (jnp.asarray(x, dtype) for x in (draw(300), np.sort(draw(16))))
  codebook = qj.Codebook(centers, jnp.int32(16))
  quantized = jax.jit(qj.hard_quantize)(x, codebook)
  packed = saved(tmp_path / "a", quantized, codebooks=codebook)
  assert same_bits(packed.params, quantized)
  if dtype == "float32":  # Whose middles XLA rounds as NumPy does.
    qj.save_packed(tmp_path / "b", x, codebooks=codebook)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_weight_in_the_middle_goes_to_the_lower_level(tmp_path):
  params = {"kernel": np.array([[0.5, 1.5], [1.5, 0.5]], np.float32)}
  levels = jnp.array([[0.0, 1, 2], [0, 1, 2]])
  for centers, count in ((levels[0], 3), (levels, jnp.array([3, 3]))):
    codebooks = {"kernel": qj.Codebook(centers, jnp.int32(count))}
    packed = saved(tmp_path / "m", params, codebooks=codebooks)
    assert packed.params["kernel"].tolist() == [[0, 1], [1, 0]]


def test_levels_without_weights_are_kept(tmp_path):
  params = {"kernel": np.array([0.1, 0.9], np.float32)}
  book = qj.Codebook(jnp.array([-5.0, 0.0, 1.0, 7.0, 9.0]), jnp.int32(5))
  packed = saved(tmp_path / "m", params, codebooks={"kernel": book})
  assert packed.params["kernel"].tolist() == [0, 1]
  own = packed.codebooks["kernel"]
  assert own.levels == 5
  assert own.centers.tolist() == [-5, 0, 1, 7, 9, 9, 9, 9]


def test_a_file_is_as_small_as_its_bits(tmp_path):
  params = {"kernel": draw(256, 256)}
  for bits in (1, 3, 8):
    codebooks = books(params, bits)
    qj.save_packed(tmp_path / "m", params, codebooks=codebooks)
    planes = 256 * 256 * bits / 8
    assert planes < (tmp_path / "m").stat().st_size < 1.02 * planes + 4096


def test_modules_of_flax_are_trees(tmp_path):
  linen: Any = nn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))["params"]
  codebooks = {"kernel": book(1), "bias": optax.MaskedNode()}
  packed = saved(tmp_path / "m", linen, codebooks=codebooks)
  assert same_bits(
    packed.params["kernel"], nearest(linen["kernel"], codebooks["kernel"])
  )
  module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  state = nnx.state(module)
  codebooks = jax.tree_util.tree_map_with_path(
    lambda path, _: book(1) if "kernel" in str(path) else optax.MaskedNode(),
    state,
  )
  packed = saved(tmp_path / "m", state, codebooks=codebooks)
  assert packed.codebooks["kernel"].levels == 2
  nnx.update(module, packed.params)
  assert same_bits(np.asarray(module.kernel), packed.params["kernel"])


def test_what_comes_back_can_be_trained_on(tmp_path):
  params = {"kernel": draw(4, 3)}
  packed = saved(tmp_path / "m", params, codebooks=books(params, 2))
  optimizer = qj.prox_quantize(0.1, strength=1.0)
  state = optimizer.init(packed.params)
  zeros = {"kernel": jnp.zeros((4, 3))}
  updates: Any
  updates, _ = optimizer.update(
    zeros, state, packed.params, codebooks=packed.codebooks
  )
  # It is where the prox pulls it.
  assert not np.any(updates["kernel"])


def test_a_network_without_a_name_cannot_be_run(tmp_path):
  packed = saved(tmp_path / "m", PARAMS)
  assert packed.info.model == ""
  for run in (packed.model, lambda: packed.predict(np.ones((1, 3)))):
    with pytest.raises(ValueError, match="model='': must be the name of a net"):
      run()


BOOK = qj.Codebook(jnp.arange(2.0), jnp.int32(2))
WIDE = qj.Codebook(jnp.zeros((4, 300)), jnp.full(4, 300))


@pytest.mark.parametrize(
  ("params", "codebooks", "message"),
  [
    ({}, None, "params: must hold at least one array"),
    ({"a": "text"}, None, "'params/a': must be an array of numbers"),
    ({"a": np.ones(2, complex)}, None, "'params/a': must be an array of numb"),
    (
      {"a/b": np.ones(2), "a": {"b": np.ones(2)}},
      None,
      "params: must have a path of its own for each array",
    ),
    ({"a/b": np.ones(2), "a": np.ones(2)}, None, "'params/a': must be an arr"),
    (
      {"a": np.ones(2), "a.levels": np.ones(2)},
      {"a": BOOK, "a.levels": optax.MaskedNode()},
      "'params/a.levels': must have another name, as 'params/a' is quantized",
    ),
    ({"a": np.ones(2)}, {"b": BOOK}, "'params/b' is none of .'params/a'."),
    ({"a": np.ones(2)}, {"a": 2}, "codebooks: must be a tree of codebooks"),
    (
      {"a": np.ones((2, 3))},
      {"a": dataclasses.replace(WIDE, centers=jnp.zeros((2, 2)))},
      r"codebooks\['params/a'\].centers.shape=\(2, 2\): must be \[levels\]",
    ),
    (
      {"a": np.ones((2, 4))},
      {"a": WIDE},
      r"levels=\[300\]: must be one",
    ),
    (
      {"a": np.ones((2, 2))},
      {"a": qj.Codebook(jnp.zeros((2, 2)), jnp.array([1, 2]))},
      r"levels=\[1, 2\]: must be one number for all channels",
    ),
    ({"a": np.array([1, np.nan])}, {"a": BOOK}, "'params/a': must be finite"),
    (
      {"a": np.ones(2)},
      {"a": qj.Codebook(jnp.zeros(2), jnp.int32(3))},
      r"codebooks\['params/a'\].levels=\[3\]: must be .* at most 2",
    ),
    (
      {"a": np.ones(2)},
      {"a": qj.Codebook(jnp.array([3.0, 1.0]), jnp.int32(2))},
      "'params/a': must have levels that are sorted",
    ),
    (
      {"a": np.ones(2, np.float16)},
      {"a": qj.Codebook(jnp.array([0.0, 1e6]), jnp.int32(2))},
      "'params/a': must have levels that its type, float16, holds",
    ),
    # They would come back otherwise, or not at all.
    (
      {"linear/~/w": np.ones(2)},
      None,
      "params=.linear/~/w.: must have no /",
    ),
    ({"a": {"b\0": np.ones(2)}}, None, "params='b.x00': must be text"),
    ({"a\ud800": np.ones(2)}, None, "params='a.ud800': must be text"),
  ],
)
def test_mistakes_are_named(params, codebooks, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    qj.save_packed(tmp_path / "m", params, codebooks=codebooks)
  assert not list(tmp_path.iterdir())


def test_a_tree_has_an_end(tmp_path):
  params: Any = np.ones(1)
  for _ in range(32):
    params = {"a": params}
  with pytest.raises(ValueError, match="must be a path in params or stats, of"):
    qj.save_packed(tmp_path / "m", params)
  assert saved(tmp_path / "m", params["a"]).params


def test_codebooks_are_not_for_networks_with_a_name(tmp_path):
  info = qj.ModelInfo("mlp", 3, (2,))
  with pytest.raises(ValueError, match="codebooks: must be left out with an"):
    qj.save_packed(tmp_path / "m", {}, {}, info, codebooks={})


def content(path):
  codebooks = books(PARAMS, 2)
  codebooks["layers"][1] = optax.MaskedNode()
  qj.save_packed(path, PARAMS, {"n": np.ones(2)}, codebooks=codebooks)
  return parts(path.read_bytes())


NAME = "params/layers/0/kernel"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda q: q[NAME].update(bits=3), "bits=3: must be those that 4 levels"),
    (lambda q: q[NAME].update(bits=2.0), "bits=2.0: must be a whole number"),
    (lambda q: q[NAME].update(levels=5), "bits=2: must be those that 5 levels"),
    (lambda q: q[NAME].update(levels=0), "levels=0: must be a whole number"),
    (
      lambda q: q[NAME].update(shape=[9, 9]),
      "must have planes .2, 11. of",
    ),
    (lambda q: q[NAME].update(shape=[2**40, 2**40]), "must have planes"),
    (lambda q: q[NAME].update(shape=4), "shape=4: must be a list"),
    (lambda q: q[NAME].pop("levels"), "levels: must be given"),
    (lambda q: q[NAME].update(x=1), "x: must not be given"),
    (lambda q: q.update(other=q[NAME]), "'other': must have planes"),
    (lambda q: q.pop(NAME), ""),
  ],
)
def test_what_a_file_says_must_be_so(change, message, tmp_path):
  header, about, tensors = content(tmp_path / "m")
  change(about["quantized"])
  (tmp_path / "m").write_bytes(build(header, about, tensors))
  if message:
    refused(tmp_path / "m", message)
  else:  # Planes and levels are arrays like any others.
    layer = qj.load_packed(tmp_path / "m").params["layers"]["0"]
    assert set(layer) == {"bias", "kernel.planes", "kernel.levels"}


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("params/embed", "embed", "'embed': must be a path in params or stats"),
    ("params/embed", NAME, "kernel': must not be there"),
    ("params/embed", f"{NAME}/x", "kernel': must be an array, or a tree"),
    ("params/embed", "params/layers", "layers': must be an array, or a tree"),
    ("params/embed", "params/" + "a/" * 32, "must be a path in params or st"),
    (f"{NAME}.levels", "params/x", "must have planes"),
  ],
)
def test_names_must_be_those_of_one_tree(old, new, message, tmp_path):
  header, about, tensors = content(tmp_path / "m")
  header[new] = header.pop(old)
  (tmp_path / "m").write_bytes(build(header, about, tensors))
  refused(tmp_path / "m", message)


@given(data=st.data())
@cases(30)
def test_a_hostile_file_is_right_or_refused(tmp_path_factory, data):
  path = tmp_path_factory.getbasetemp() / "nameless.safetensors"
  header, about, tensors = content(path)
  names = [*header, *about["quantized"], "params", "params/x/y", "stats"]
  for _ in range(data.draw(st.integers(1, 2))):
    entries = data.draw(st.sampled_from([header, about["quantized"] or header]))
    name = data.draw(st.sampled_from(sorted(entries.keys() - {"__metadata__"})))
    entry = entries[name]
    how = data.draw(st.sampled_from(["rename", "field", "field", "drop"]))
    if how == "field":
      field = data.draw(st.sampled_from(sorted(entry)))
      entry[field] = data.draw(VALUES | NUMBERS | st.lists(NUMBERS, max_size=3))
    else:
      entries.pop(name)
    if how == "rename":
      entries[data.draw(st.sampled_from(names))] = entry
  path.write_bytes(build(header, about, tensors))
  found = measured(path)
  if found is None:
    return
  again = path.with_name("again.safetensors")
  qj.save_packed(
    again, found.params, found.stats, mean=found.mean, std=found.std
  )
  assert same_bits(qj.load_packed(again)[1:5], found[1:5])
