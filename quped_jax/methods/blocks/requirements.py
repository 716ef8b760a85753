"""What a method may require of models, training and data."""

import jax

from quped_jax.data.federation import Federation, PublicSet
from quped_jax.methods.api import Models
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Block, Model
from quped_jax.quantization import codebook as codebook_lib


def check_public(
  method: str, federation: Federation | None, *, labelled: bool
) -> PublicSet:
  """The public set, with labels if the method needs them.

  Args:
    method: name of the method that needs it, for errors.
    federation: has the public set as `public`; None for no federation.
    labelled: whether the method needs labels.

  Raises:
    ValueError: there is no public set, or it lacks the required labels.
  """
  public = None if federation is None else federation.public
  if public is None:
    raise ValueError(
      f"public_size=0: must be positive with method={method!r}, which needs a "
      "public set"
    )
  if labelled and not public.labelled:
    raise ValueError(
      f"public_labelled=False: must be True with method={method!r}, which "
      "learns from the labels of the public set"
    )
  return public


def check_full_precision(method: str, training: Training, reason: str) -> None:
  """Raises a ValueError unless all clients have full precision."""
  if training.max_levels is not None:
    raise ValueError(
      f"bits: must be {codebook_lib.FULL_PRECISION} for all clients with "
      f"method={method!r}: {reason}"
    )


def check_classes(method: str, training: Training, reason: str) -> None:
  """Raises a ValueError unless labels are classes.

  Args:
    method: name of the method that needs them, for errors.
    training: has the loss.
    reason: why it needs them.
  """
  if not training.classes:
    raise ValueError(
      f"loss: must be one over classes with method={method!r}: {reason}"
    )


def check_blocks(method: str, model: Model) -> tuple[Block, ...]:
  """The blocks of a network, two or more.

  Args:
    method: name of the method that runs them apart, for errors.
    model: the network.

  Raises:
    ValueError: its blocks are unknown, or there is one alone.
  """
  blocks = model.blocks or ()
  if len(blocks) < 2:
    found = f"has {len(blocks)}" if blocks else "does not say what they are"
    raise ValueError(
      f"model={model.name!r}: must have two blocks or more with "
      f"method={method!r}, which runs them apart; it {found}"
    )
  return blocks


def check_follows_inputs(method: str, model: Model, inputs: jax.Array) -> None:
  """Raises a ValueError for a network of tokens, which has no gradient in them.

  Args:
    method: name of the method that learns inputs by gradients, for errors.
    model: the network.
    inputs: like those of some samples, `[batch, ...]`.
  """

  def along(direction):
    params, stats = model.init(jax.random.key(0), inputs)

    def logits(inputs):
      return model.apply(params, stats, inputs, False)[0]

    return jax.jvp(logits, (inputs,), (direction,))[1]

  program = jax.make_jaxpr(along)(inputs).jaxpr
  (direction,) = program.invars
  if not any(x is direction for line in program.eqns for x in line.invars):
    raise ValueError(
      f"model={model.name!r}: must be a network of numbers, not of tokens, "
      f"with method={method!r}, whose server learns inputs by their gradient"
    )


def check_same_model(method: str, models: Models) -> None:
  """Raises a ValueError unless all cohorts have the global architecture."""
  for cohort, model in models.clients.items():
    if model is models.shared:
      continue
    if len(models.clients) > 1:
      raise ValueError(
        "client_types: must be of one network (as must be candidates), the "
        f"global model's, with method={method!r}, which averages weights; got "
        f"{', '.join(models.clients)}"
      )
    raise ValueError(
      f"shared_model={models.shared.name!r}: must be the network of the "
      f"clients, {model.name!r} (cohort {cohort!r}), of the same widths, "
      f"since {method} averages weights (beside client_types it is model by "
      "default)"
    )
