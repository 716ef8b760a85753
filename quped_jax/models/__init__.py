"""Networks, all of them pure functions over a tree of parameters."""

from quped_jax.models.base import (
  Block,
  Model,
  NamedNetwork,
  example_pass,
  hidden_kernels,
  is_head,
  pass_keys,
  training_pass,
)
from quped_jax.models.cnn import CNN, PADDINGS
from quped_jax.models.conv import (
  adaptive_conv,
  canonical_conv,
  resolve_conv,
  shift_conv,
)
from quped_jax.models.given import (
  check_trainable,
  check_type,
  plain_convolutions,
  settle,
)
from quped_jax.models.linen import from_linen
from quped_jax.models.mlp import MLP
from quped_jax.models.pool import max_pool_2x2
from quped_jax.models.registry import (
  COMPUTE_DTYPES,
  create_model,
  get_factory,
  is_built_in,
  model_names,
  register_model,
  takes_dtype,
  takes_images,
  takes_padding,
  width_options,
)
from quped_jax.models.resnet import ResNet
from quped_jax.models.stacked import create_named, stack
from quped_jax.models.transformer import Transformer

__all__ = [
  "COMPUTE_DTYPES",
  "PADDINGS",
  "Block",
  "adaptive_conv",
  "canonical_conv",
  "CNN",
  "MLP",
  "Model",
  "NamedNetwork",
  "ResNet",
  "Transformer",
  "check_trainable",
  "check_type",
  "create_model",
  "create_named",
  "example_pass",
  "from_linen",
  "get_factory",
  "hidden_kernels",
  "is_built_in",
  "is_head",
  "max_pool_2x2",
  "model_names",
  "pass_keys",
  "plain_convolutions",
  "register_model",
  "resolve_conv",
  "settle",
  "shift_conv",
  "stack",
  "takes_dtype",
  "takes_images",
  "takes_padding",
  "training_pass",
  "width_options",
]
