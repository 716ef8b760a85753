"""Building block of methods that split a model, most at its last layer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, is_head
from quped_jax.models.base import HEAD
from quped_jax.quantization.codebook_tree import path_name


def check_head(setting: str, model: Model, params: Any) -> None:
  """Raises a ValueError unless a model consists of a head and a body.

  Args:
    setting: the setting that divides it, for errors.
    model: the network.
    params: its parameters; only their paths matter.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  heads = [is_head(path_name(path)) for path, _ in leaves]
  if all(heads) or not any(heads):
    raise ValueError(
      f"model={model.name!r}: must have a layer 'last', its head, and others "
      f"with {setting}, which divides the model there"
    )


def last_blocks(
  field: str, count: int, model: Model, params: Any
) -> Callable[[str], bool]:
  """Tells which parameters and statistics are those of a model's last blocks.

  Args:
    field: the setting that has the number of blocks, for errors.
    count: how many blocks; the last one is the head.
    model: the network.
    params: its parameters; only their paths matter.

  Returns:
    `path -> bool`.

  Raises:
    ValueError: the model has no head, not so many blocks, or does not say which
      it has where more than the head is asked for.
  """
  setting = f"{field}={count}"
  if model.blocks is None:
    if count > 1:
      raise ValueError(
        f"{setting}: must be 1 with model={model.name!r}, which does not say "
        "what `blocks` it consists of"
      )
    check_head(setting, model, params)
    return is_head
  if count > len(model.blocks):
    raise ValueError(
      f"{setting}: must be at most {len(model.blocks)}, the number of blocks "
      f"of model={model.name!r}"
    )
  chosen = model.blocks[-count:]
  return lambda path: any(block.owns(path) for block in chosen)


def check_divided(
  method: str, model: Model, federation: Any
) -> tuple[int, int]:
  """Checks that a model consists of features and a head that takes them.

  Args:
    method: name of the method that splits it, for errors.
    model: the network.
    federation: has the samples that are its inputs.

  Returns:
    The number of features and the number of classes, or of outputs.

  Raises:
    ValueError: the model is not split, its features are not `[batch, width]`,
      or its logits are not `[batch, classes]`.
  """

  def error(what):
    return ValueError(
      f"model={model.name!r}: must {what} with method={method!r}, which "
      "divides the model before its last layer"
    )

  if model.features is None or model.head is None:
    raise error("have `features` and a `head`")
  divide, head = model.features, model.head

  def shapes():
    inputs = federation.example()
    params, stats = model.init(jax.random.key(0), inputs)
    features, _ = divide(params, stats, inputs, False)
    return features, head(params, features)

  features, logits = jax.eval_shape(shapes)
  if features.ndim != 2:
    raise error(f"have features [batch, width], not {features.shape},")
  if logits.ndim != 2:
    raise error(f"give logits [batch, classes], not {logits.shape},")
  return features.shape[1], logits.shape[1]


def body(model: Model) -> Model:
  """The network that ends in a split model's features, for `training_pass`."""
  features: Any = model.features
  return model._replace(apply=features, features=None, head=None, blocks=None)


def check_linear(
  method: str,
  models: Mapping[str, Model],
  federation: Any,
  training: Training,
  changed: tuple[str, ...] = (),
) -> tuple[int, int]:
  """Checks that the head of every model is a dense layer with a bias.

  Then what a method does with features before the last layer, or with logits
  after it, can be folded into that layer.

  Args:
    method: the method's name, for errors.
    models: the networks by cohort name.
    federation: has the samples that are their inputs.
    training: says whether any client is quantized.
    changed: which of "kernel" and "bias" folding changes in a quantized model;
      they must not be quantized themselves.

  Returns:
    The number of features and the number of classes.

  Raises:
    ValueError: a model is not split, its head is another, its last layer is
      quantized, or the number of features differs.
  """
  width, classes = check_alike(method, models, federation)
  expected = {HEAD: {"kernel": (width, classes), "bias": (classes,)}}
  for model in models.values():
    params, _ = jax.eval_shape(
      model.init, jax.random.key(0), federation.example()
    )
    shapes = jax.tree.map(lambda x: x.shape, head_params(params))
    if shapes != expected:
      raise ValueError(
        f"model={model.name!r}: must have a last layer of a kernel and a bias "
        f"with method={method!r}, which puts others in their place"
      )
    quantized = training.max_levels is not None
    for name in changed:
      if quantized and model.is_quantized(f"{HEAD}/{name}"):
        raise ValueError(
          f"model={model.name!r}: must not quantize '{HEAD}/{name}' with "
          f"method={method!r}, which adds to it what is a client's own"
        )
  return width, classes


def head_params(params: Any) -> dict[str, Any]:
  """The parameters of the last layer only, as `Model.head` takes them."""
  return {name: params[name] for name in params if is_head(name)}


def check_alike(
  method: str, models: Mapping[str, Model], federation: Any
) -> tuple[int, int]:
  """Checks that the models of all cohorts have equally many features.

  Args:
    method: name of the method that splits them, for errors.
    models: the networks by cohort name.
    federation: has the samples that are their inputs.

  Returns:
    The number of features and the number of classes.

  Raises:
    ValueError: a model is not split, or its number of features differs.
  """
  sizes = {c: check_divided(method, m, federation) for c, m in models.items()}
  (first, size), *others = sizes.items()
  for cohort, other in others:
    if other != size:
      raise ValueError(
        f"model={models[cohort].name!r} (cohort {cohort!r}): must have "
        f"{size[0]} features, as {first!r} has, with method={method!r}; got "
        f"{other[0]}"
      )
  return size
