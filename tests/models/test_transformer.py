import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import next_characters
from quped_jax.data.text import VOCABULARY


def make(**options):
  options = {"width": 8, "heads": 2, "blocks": 2, **options}
  return qj.create_model("transformer", 7, **options)


TOKENS = jnp.array([[1, 2, 3, 4, 5], [0, 6, 3, 2, 1]], jnp.float32)


def test_kernels_of_the_blocks_are_quantized():
  model = make()
  params, stats = model.init(jax.random.key(0), TOKENS)
  assert stats == {}
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
  ]
  quantized = {name for name in names if model.is_quantized(name)}
  parts = ("query", "key", "value", "out", "up", "down")
  assert quantized == {
    f"block_{i}_{part}/kernel" for i in range(2) for part in parts
  }
  assert {"first/embedding", "last/kernel", "place"} < set(names)


@pytest.mark.slow
def test_every_token_and_its_place_counts():
  model = make()
  params, _ = model.init(jax.random.key(0), TOKENS)

  def logits(tokens):
    return model.apply(params, {}, tokens, False)[0]

  reference = logits(TOKENS)
  chex.assert_shape(reference, (2, 7))
  for place in range(5):
    other = TOKENS.at[0, place].set(0)
    assert jnp.abs(logits(other)[0] - reference[0]).max() > 1e-6
    np.testing.assert_allclose(logits(other)[1], reference[1], atol=1e-6)
  turned = logits(TOKENS.at[0].set(TOKENS[0, ::-1]))
  assert jnp.abs(turned[0] - reference[0]).max() > 1e-6


@pytest.mark.slow
def test_bfloat16_computes_and_gives_float32():
  model = make(dtype=jnp.bfloat16)
  params, _ = model.init(jax.random.key(0), TOKENS)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  assert model.apply(params, {}, TOKENS, True)[0].dtype == jnp.float32


def test_a_width_that_heads_do_not_divide_is_an_error():
  with pytest.raises(ValueError, match="width=9: must be a multiple of"):
    make(width=9)


@pytest.mark.slow
def test_a_federation_learns_text_by_its_source():
  """Each source repeats its own string, which clients come to know."""
  texts = {str(i): "".join(chr(97 + i + j) for j in range(5)) * 60
           for i in range(6)}  # fmt: skip
  data = next_characters(texts, context=6, stride=1)
  parts = qj.partition(data, "natural", 3, groups_per_client=2)
  model = qj.create_model(
    "transformer", data.num_classes, width=8, heads=2, blocks=1
  )
  settings = qj.Settings(
    clients=3,
    bits=(1, 2, 32),
    rounds=4,
    steps=25,
    eval_every=4,
    optimizer="adam",
    learning_rate=(1e-2,),
    shared_optimizer="adam",
    shared_learning_rate=1e-2,
    devices=1,
  )
  result = qj.run(
    settings,
    federation=qj.make_federation(data, parts),
    model=model,
    display=qj.Display(quiet=True),
  )
  assert data.num_classes == VOCABULARY
  assert result.summary["accuracy"]["quantized"]["mean"] > 0.8
