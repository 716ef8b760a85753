import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quped_jax.quantization import codebook_tree
from quped_jax.quantization.codebook import hard_quantize, init_codebook
from quped_jax.quantization.codebook_tree import (
  get_centers,
  hard_quantize_tree,
  init_codebooks,
  is_quantized,
  set_centers_tree,
  with_centers,
)
from quped_jax.quantization.soft_quantizer import (
  soft_quantize,
  soft_quantize_tree,
)

hard = jax.jit(hard_quantize)
PARAMS = {
  "first": {
    "kernel": jnp.ones((2, 1)) * jnp.arange(3.0)[None],
    "bias": jnp.ones(3),
  },
  "hidden": {"kernel": jnp.arange(-4.0, 5.0).reshape(3, 3)},
}


def is_kernel(name):
  return name.endswith("/kernel")


def test_init_codebooks_follows_the_predicate():
  codebooks = init_codebooks(PARAMS, lambda name: name == "hidden/kernel", 2)
  assert codebooks["first"] == {
    "kernel": optax.MaskedNode(),
    "bias": optax.MaskedNode(),
  }
  want = init_codebook(PARAMS["hidden"]["kernel"], 2)
  np.testing.assert_array_equal(
    codebooks["hidden"]["kernel"].centers, want.centers
  )


def test_the_first_matching_pattern_gives_the_bits():
  bits = {"hidden/*": 1, "*/kernel": 3}
  codebooks = init_codebooks(PARAMS, is_kernel, bits)
  assert codebooks["hidden"]["kernel"].levels == 2
  assert codebooks["first"]["kernel"].levels == 8
  assert {c.max_levels for c in codebook_tree.codebook_leaves(codebooks)} == {8}


def test_init_codebooks_passes_its_options_on():
  codebooks = init_codebooks(
    PARAMS, is_kernel, 1, 4, granularity="channel", outer_level=2.0
  )
  np.testing.assert_array_equal(
    codebooks["hidden"]["kernel"].centers, [[-2.0, 2.0, 2.0, 2.0]] * 3
  )


@pytest.mark.slow
def test_trees_quantize_what_has_a_codebook_and_keep_the_rest():
  codebooks = init_codebooks(PARAMS, is_kernel, 1)
  codebook = codebooks["hidden"]["kernel"]
  x = PARAMS["hidden"]["kernel"]
  by_hard = hard_quantize_tree(PARAMS, codebooks)
  by_soft = soft_quantize_tree(PARAMS, codebooks, 3.0, unit="absolute")
  np.testing.assert_array_equal(by_hard["hidden"]["kernel"], hard(x, codebook))
  np.testing.assert_allclose(
    by_soft["hidden"]["kernel"],
    soft_quantize(x, codebook, 3.0, unit="absolute"),
    rtol=1e-6,
  )
  assert by_hard["first"]["bias"] is by_soft["first"]["bias"]
  assert by_hard["first"]["bias"] is PARAMS["first"]["bias"]


def test_centers_go_out_and_come_back():
  codebooks = init_codebooks(PARAMS, is_kernel, 1)
  centers = get_centers(codebooks)
  assert centers["first"]["bias"] == optax.MaskedNode()
  turned = jax.tree.map(lambda c: -c, centers)
  as_is = with_centers(codebooks, turned)["hidden"]["kernel"]
  ordered = set_centers_tree(codebooks, turned)["hidden"]["kernel"]
  original = codebooks["hidden"]["kernel"].centers
  np.testing.assert_array_equal(as_is.centers, -original)
  np.testing.assert_array_equal(ordered.centers, -original[::-1])


def test_is_quantized_if_any_tensor_has_levels():
  nothing = codebook_tree.full_precision(PARAMS)
  assert jax.tree.leaves(nothing) == []
  assert not is_quantized(nothing)
  assert not is_quantized(init_codebooks(PARAMS, is_kernel, 32))
  bits = {"hidden/*": 32, "*": 1}
  assert is_quantized(init_codebooks(PARAMS, is_kernel, bits))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: init_codebooks(PARAMS, lambda _: False, 1),
      r"predicate: accepts none of .*hidden/kernel",
    ),
    (
      lambda: init_codebooks(PARAMS, is_kernel, {"hidden/*": 1}),
      r"bits=\{'hidden/\*': 1\}: no pattern matches .*'first/kernel'",
    ),
    (
      lambda: init_codebooks(PARAMS, is_kernel, {"*": 12}),
      r"bits=12: must be",
    ),
    (
      lambda: init_codebooks(PARAMS, is_kernel, 4, 8),
      r"max_levels=8: must be at least 16",
    ),
  ],
)
def test_errors_name_the_field_and_its_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()
