"""Networks by name: built-in ones, and those that users register."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from quped_jax import checks
from quped_jax.models import given
from quped_jax.models.base import Model
from quped_jax.models.cnn import CNN, PADDINGS
from quped_jax.models.conv import (
  resolve_conv,
)
from quped_jax.models.linen import from_linen
from quped_jax.models.mlp import DEFAULT_WIDTHS, MLP
from quped_jax.models.resnet import ResNet
from quped_jax.models.transformer import Transformer

# The types in which networks compute; their parameters are float32.
COMPUTE_DTYPES = ("float32", "bfloat16")

_RELU = ("relu",)

# Widths of CNN1: (convolutions, dense layers before the last).
_GREY_WIDTHS = ((32, 64), (512,))
_COLOUR_WIDTHS = ((64, 64), (384, 192))

# By network, how many convolutions come before its dense layers.
_CONVOLUTIONS = {"mlp": 0, "cnn1": 2, "cnn2": 4}


def _mlp(
  num_classes: int,
  *,
  image_channels: int | None,
  conv: str,
  features: tuple[int, ...] = DEFAULT_WIDTHS,
  dtype: Any = None,
) -> Model:
  del image_channels, conv  # Inputs are flattened.
  _check_widths("features", features)
  module = MLP(num_classes, tuple(features), dtype)
  return from_linen(module, "mlp", activations=_RELU)


def _cnn(name: str) -> Callable[..., Model]:
  def factory(
    num_classes: int,
    *,
    image_channels: int | None,
    conv: str,
    conv_features: tuple[int, ...] | None = None,
    dense_features: tuple[int, ...] | None = None,
    padding: str = "same",
    dtype: Any = None,
  ) -> Model:
    convs, dense = _COLOUR_WIDTHS if image_channels == 3 else _GREY_WIDTHS
    if conv_features is None:
      conv_features = convs + (64,) * (_CONVOLUTIONS[name] - len(convs))
    if dense_features is None:
      dense_features = dense
    _check_widths("conv_features", conv_features)
    _check_widths("dense_features", dense_features)
    checks.choice("padding", padding, PADDINGS)
    module = CNN(
      num_classes,
      tuple(conv_features),
      tuple(dense_features),
      resolve_conv(conv),
      dtype,
      padding,
    )
    return from_linen(module, name, activations=_RELU)

  return factory


def _resnet(name: str, blocks: int) -> Callable[..., Model]:
  def factory(
    num_classes: int,
    *,
    image_channels: int | None,
    conv: str,
    dtype: Any = None,
  ) -> Model:
    del image_channels  # The first kernel takes its channels from the inputs.
    module = ResNet(num_classes, blocks, conv=resolve_conv(conv), dtype=dtype)
    return from_linen(module, name, activations=_RELU)

  return factory


def _transformer(
  num_classes: int,
  *,
  image_channels: int | None,
  conv: str,
  width: int = 64,
  blocks: int = 2,
  heads: int = 4,
  dtype: Any = None,
) -> Model:
  del image_channels, conv
  _check_widths("width, blocks, heads", (width, blocks, heads))
  if width % heads:
    raise ValueError(f"width={width}: must be a multiple of heads={heads}")
  module = Transformer(num_classes, width, blocks, heads, dtype)
  return from_linen(module, "transformer", activations=("gelu_tanh",))


def _check_widths(field: str, widths: tuple[int, ...]) -> None:
  if any(width < 1 for width in widths):
    raise ValueError(f"{field}={tuple(widths)}: must be positive widths")


_BUILT_IN: dict[str, Callable[..., Model]] = {
  "mlp": _mlp,
  "cnn1": _cnn("cnn1"),
  "cnn2": _cnn("cnn2"),
  "resnet8": _resnet("resnet8", blocks=1),
  "resnet20": _resnet("resnet20", blocks=3),
  "resnet32": _resnet("resnet32", blocks=5),
  "transformer": _transformer,
}
_registered: dict[str, Callable[..., Model]] = {}


def register_model(name: str, factory: Callable[..., Model]) -> None:
  """Makes a model available under a name.

  A second registration under the same name replaces the first, so that a
  notebook cell can be run again.

  Args:
    name: the name for `create_model`.
    factory: called as `factory(num_classes, image_channels=..., conv=...,
      **options)`; `**_` takes those it has no use for. A factory with the
      option `dtype` can be asked for `compute_dtype="bfloat16"`.

  Raises:
    ValueError: if the name is that of a built-in model, or the factory no
      function.

  Examples:
    >>> class Net(nn.Module):
    ...   classes: int
    ...
    ...   @nn.compact
    ...   def __call__(self, inputs):
    ...     return nn.Dense(self.classes, name="last")(inputs)
    >>> qj.register_model(
    ...   "my_net", lambda classes, **_: qj.from_linen(Net(classes), "my_net")
    ... )
    >>> qj.Settings(model="my_net").model
    'my_net'
  """
  if not isinstance(name, str):
    raise ValueError(f"name={name!r}: must be text")
  if name in _BUILT_IN:
    raise ValueError(
      f"name={name!r}: must be none of the built-in models, "
      f"{', '.join(sorted(_BUILT_IN))}"
    )
  if isinstance(factory, Model) or not callable(factory):
    raise ValueError(
      f"factory={type(factory).__name__}: must be a function that makes a "
      "qj.Model, such as lambda num_classes, **_: model"
    )
  _registered[name] = factory


def model_names() -> tuple[str, ...]:
  """Names that `create_model` knows, sorted."""
  return tuple(sorted(_BUILT_IN | _registered))


def is_built_in(name: str) -> bool:
  """Whether a network of this name is one of this package's own."""
  return name in _BUILT_IN


def takes_padding(name: str) -> bool:
  """Whether a model's convolutions can do without padding."""
  return bool(_CONVOLUTIONS.get(name))


def width_options(
  name: str, widths: tuple[int, ...], given: str = ""
) -> dict[str, Any]:
  """The options of `create_model` by which hidden layers have these widths.

  Args:
    name: of the network.
    widths: of its hidden layers in forward order, the convolutions first; ()
      for their default.
    given: how they were given, for errors, such as "hidden=(8,)".

  Raises:
    ValueError: a network whose widths cannot be chosen, or fewer of them than
      it has convolutions.
  """
  if not widths:
    return {}
  given = given or f"widths={widths}"
  if name not in _CONVOLUTIONS:
    raise ValueError(
      f"{given}: must have no widths with the network {name!r}; only "
      f"{', '.join(_CONVOLUTIONS)} take them"
    )
  convs = _CONVOLUTIONS[name]
  if not convs:
    return {"features": widths}
  if len(widths) < convs:
    raise ValueError(
      f"{given}: must have at least {convs} widths with the network {name!r}, "
      "one for each of its convolutions, then those of dense layers; or none, "
      "for its default"
    )
  return {"conv_features": widths[:convs], "dense_features": widths[convs:]}


def get_factory(name: str) -> Callable[..., Model]:
  """Returns the factory of the models of this name.

  Raises:
    ValueError: no such model.
  """
  checks.choice("model", name, model_names())
  return (_BUILT_IN | _registered)[name]


def takes_dtype(name: str) -> bool:
  """Whether a model's factory has the option `dtype` of the computation."""
  return "dtype" in inspect.signature(get_factory(name)).parameters


def takes_images(name: str) -> bool:
  """Whether it is a built-in model that takes channels from the last axis."""
  return name in _BUILT_IN and name not in ("mlp", "transformer")


def create_model(
  name: str,
  num_classes: int,
  *,
  image_channels: int | None = None,
  conv: str = "auto",
  **options: Any,
) -> Model:
  """Creates a model by name.

  Args:
    name: `"mlp"`, `"cnn1"`, `"cnn2"` (`"cnn1"` with two more convolutions),
      `"resnet8"`, `"resnet20"`, `"resnet32"`, `"transformer"` (for tokens, such
      as those of the dataset "own_source"), or a registered name.
    num_classes: number of logits.
    image_channels: channels of the images: 3 gives the CNNs their widths for
      CIFAR (64, 64, dense 384, 192), anything else those for grey images (32,
      64, dense 512). The other built-in models ignore it.
    conv: name of a convolution, see `resolve_conv`.
    **options: `dtype` of the computation (parameters are float32 in any case;
      None, the default, computes in the type of the parameters and inputs);
      `features` of `"mlp"`; `conv_features` and `dense_features` of the CNNs,
      which override the widths chosen by `image_channels`, and their `padding`,
      "same" (the default) or "valid"; `width`, `blocks` and `heads` of
      `"transformer"`.

  Returns:
    The model, whose parameters at paths such as `"hidden_1/kernel"` are
    quantized.

  Raises:
    ValueError: if there is no such model, convolution or option, or a value
      that is not allowed.

  Examples:
    >>> model = qj.create_model("mlp", 10, features=(32, 32))
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> params["hidden_1"]["kernel"].shape
    (32, 32)
  """
  factory = get_factory(name)
  checks.at_least("num_classes", num_classes, 1)
  # Also for models without convolutions: a misspelled name is an error.
  resolve_conv(conv)
  _check_options(name, factory, options)
  model = factory(
    num_classes, image_channels=image_channels, conv=conv, **options
  )
  given.check_type(model)
  return model


def _check_options(
  name: str, factory: Callable[..., Model], options: dict[str, Any]
) -> None:
  parameters = inspect.signature(factory).parameters.values()
  if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
    return
  allowed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
  allowed -= {"image_channels", "conv"}
  unknown = sorted(set(options) - allowed)
  if unknown:
    raise ValueError(
      f"options={unknown}: must be among {sorted(allowed)} with model={name!r}"
    )
