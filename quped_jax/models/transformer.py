"""A small transformer that reads tokens and predicts the next one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Transformer(nn.Module):
  """Causal transformer blocks over tokens; logits at the last position.

  The embedding and the output layer are called `first` and `last`, and stay in
  full precision like the normalisation; the kernels of attention and of the
  dense layers in the blocks are quantized.

  Attributes:
    num_classes: number of tokens, in and out.
    width: of the residual stream, a multiple of `heads`.
    blocks: number of transformer blocks.
    heads: number of attention heads.
    dtype: type of the computation; None for that of parameters.
  """

  num_classes: int
  width: int = 64
  blocks: int = 2
  heads: int = 4
  dtype: Any = None

  @nn.compact
  def __call__(self, inputs: jax.typing.ArrayLike) -> jax.Array:
    """Maps tokens `[batch, length]`, of any number type, to logits."""
    if jnp.ndim(inputs) != 2:
      raise ValueError(
        "model='transformer': must be given tokens, [batch, length], as of "
        f"dataset='own_source'; got inputs of shape {jnp.shape(inputs)}"
      )
    tokens = jnp.asarray(inputs).astype(jnp.int32)
    length = tokens.shape[1]
    embed = nn.Embed(self.num_classes, self.width, self.dtype, name="first")
    place = self.param(
      "place", nn.initializers.normal(0.02), (length, self.width)
    )
    x = embed(tokens) + place[None].astype(self.dtype)
    for index in range(self.blocks):
      x = self._block(x, f"block_{index}")
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x[:, -1])
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="last")(x)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  def _block(self, x, name):
    def dense(width, part):
      return nn.Dense(width, dtype=self.dtype, name=f"{name}_{part}")

    def norm(part):
      return nn.LayerNorm(dtype=self.dtype, name=f"{name}_{part}")

    def divided(y):
      return y.reshape(*y.shape[:2], self.heads, -1)

    y = norm("norm_1")(x)
    query, key, value = (
      divided(dense(self.width, part)(y)) for part in ("query", "key", "value")
    )
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + dense(self.width, "out")(mixed.reshape(x.shape))
    y = nn.gelu(dense(4 * self.width, "up")(norm("norm_2")(x)))
    return x + dense(self.width, "down")(y)
