"""A small transformer that reads tokens and predicts the next one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from quped_jax.models.mlp import logits

# Of a transformer block: the layers, by the ends of their names.
_PARTS = ("norm_1", "query", "key", "value", "out", "norm_2", "up", "down")


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

  @property
  def block_layers(self) -> dict[str, tuple[str, ...]]:
    """The embedding, the transformer blocks, and the last layer."""
    own = [f"block_{index}" for index in range(self.blocks)]
    layers = {name: tuple(f"{name}_{part}" for part in _PARTS) for name in own}
    # The features are the normalised outputs of the last block.
    layers[own[-1]] = (*layers[own[-1]], "norm")
    return {"first": ("first", "place"), **layers, "last": ("last",)}

  @nn.compact
  def __call__(
    self,
    inputs: jax.typing.ArrayLike,
    only: tuple[str, ...] | None = None,
  ) -> jax.Array:
    """Maps tokens `[batch, length]`, of any number type, to logits."""
    outputs = jnp.asarray(inputs)
    for name, layers in self.block_layers.items():
      if only is not None and name not in only:
        continue
      if name == "first":
        outputs = self._embedded(outputs)
      elif name == "last":
        dense = nn.Dense(self.num_classes, dtype=self.dtype, name=name)
        outputs = logits(dense(outputs))
      else:
        outputs = self._block(outputs, name)
        if "norm" in layers:
          norm = nn.LayerNorm(dtype=self.dtype, name="norm")
          outputs = norm(outputs[:, -1])
    return outputs

  def _embedded(self, inputs: jax.Array) -> jax.Array:
    if jnp.ndim(inputs) != 2:
      raise ValueError(
        "model='transformer': must be given tokens, [batch, length], as of "
        f"dataset='own_source'; got inputs of shape {jnp.shape(inputs)}"
      )
    tokens = inputs.astype(jnp.int32)
    length = tokens.shape[1]
    embed = nn.Embed(self.num_classes, self.width, self.dtype, name="first")
    place = self.param(
      "place", nn.initializers.normal(0.02), (length, self.width)
    )
    return embed(tokens) + place[None].astype(self.dtype)

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
