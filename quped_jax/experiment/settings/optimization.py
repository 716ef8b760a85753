"""Settings of the optimization: of weights, of levels, and their quantizer."""

import dataclasses

from quped_jax import checks
from quped_jax.experiment.settings.fields import (
  Group,
  at_least,
  converted,
  each,
  group,
  one_of,
  rounds_in_order,
  setting,
)
from quped_jax.experiment.settings.values import numbers, whole_numbers
from quped_jax.quantization import (
  codebook,
  level_rules,
  optimizers,
  proximal,
  soft_quantizer,
  training_steps,
)
from quped_jax.quantization.annealing import Annealing


@group
class QuantizationSettings(Group):
  """The codebooks, and what pulls weights to their levels."""

  granularity: str = setting(
    "tensor",
    "what has a codebook of its own, each 'tensor' or each 'channel'.",
    one_of(codebook.GRANULARITIES),
  )
  outer_level: float = setting(
    0.0,
    "if positive, levels start evenly spaced from minus to plus this.",
    checks.not_negative,
  )
  initial_levels: str = setting(
    "",
    "rule by which levels are fitted when training begins, see "
    "`quped_jax.quantization.level_rules`: 'range', 'uniform', 'lsbq', 'lsq' "
    "or 'kmeans'. With the estimators 'ste', 'binaryrelax' and 'parq', levels "
    "by 'uniform' and 'lsbq' follow the weights from then on. '' for the "
    "estimator's own.",
    one_of(("", *level_rules.RULES)),
    later=True,
  )
  estimator: str = setting(
    "soft",
    "how a quantized model is trained. With two losses, of QuPeD: 'soft', "
    "where that of the quantized model trains weights and levels, through the "
    "soft quantizer, or 'hard', where it trains the levels alone. With one, of "
    "others: 'ste', 'lsq', 'binaryrelax', 'parq' or 'proxquant'.",
    one_of(training_steps.ESTIMATORS),
  )
  sharpness: float = setting(10.0, "of the soft quantizer.", checks.positive)
  sharpness_unit: str = setting(
    "gap",
    "of the sharpness, 'gap' (between levels) or 'absolute'.",
    one_of(soft_quantizer.SHARPNESS_UNITS),
  )
  norm: str = setting(
    "l1",
    "of the regularizer that pulls weights to levels, 'l1' or 'l2'.",
    one_of(proximal.NORMS),
  )
  center_prox: str = setting(
    "exact",
    "proximal step of the levels, 'exact' or 'subgradient'.",
    one_of(proximal.CENTER_METHODS),
  )
  strength: float = setting(
    1e-4,
    "lambda_0 of that regularizer.",
    checks.not_negative,
    data=True,
  )
  strength_ramp: bool = setting(
    True, "whether round r, from 0, has strength lambda_0 * (r + 1)."
  )
  strength_drop_factor: float = setting(
    1.0,
    "factor on the strength at each of `learning_rate_drops`.",
    checks.not_negative,
    traced=True,
  )

  @property
  def rule_of_levels(self) -> str:
    """The rule by which levels are fitted, see `level_rules`."""
    if self.outer_level:
      return "range"
    return self.initial_levels or training_steps.ESTIMATORS[self.estimator]

  def _check(self) -> None:
    if self.initial_levels:
      level_rules.check(self.initial_levels, self.outer_level)


@group
class AnnealingSettings(Group):
  """How networks come to run at their levels, of estimators that anneal."""

  anneal_start: float = setting(
    0.0,
    "share of the training with which 'binaryrelax' and 'parq' begin to "
    "quantize.",
    checks.unit_interval,
    later=True,
  )
  anneal_end: float = setting(
    0.75,
    "share from which on their network runs at its levels.",
    checks.unit_interval,
    later=True,
  )
  anneal_rounds: int = setting(
    0,
    "how many rounds the whole training is to have, for these shares; 0 for "
    "`rounds`.",
    at_least(0),
    data=True,
    later=True,
  )
  parq_steepness: float = setting(
    Annealing.parq_steepness,
    "of the sigmoid by which 'parq' goes from one to the other.",
    later=True,
  )
  relax_start: float = setting(
    Annealing.relax_start,
    "weight of the levels with which 'binaryrelax' begins.",
    later=True,
  )
  relax_growth: float = setting(
    Annealing.relax_growth,
    "factor by which it grows until `anneal_end`.",
    later=True,
  )

  @property
  def annealing(self) -> Annealing:
    """How quantization goes on, for the estimators that anneal."""
    names = [field.name for field in dataclasses.fields(Annealing)]
    return Annealing(**{name: getattr(self, name) for name in names})

  def _check(self) -> None:
    # Which checks itself.
    _ = self.annealing


@group
class WeightSettings(Group):
  """How the weights are trained, of clients' and of downloaded models."""

  optimizer: str = setting(
    "sgd",
    "of the weights, 'sgd', 'momentum', 'adam' or 'adamw'.",
    one_of(optimizers.OPTIMIZERS),
  )
  momentum: float = setting(0.9, "of 'momentum'.", checks.unit_interval)
  weight_decay: float = setting(
    0.0,
    "so many times the weights are added to their gradient, before momentum or "
    "Adam's scaling, as in torch.optim.SGD; with 'adamw' after it.",
    checks.not_negative,
  )
  weight_clip: float = setting(
    0.0,
    "if positive, quantized weights stay within plus or minus this.",
    checks.not_negative,
  )
  learning_rate: tuple[float, ...] = converted(
    default=(0.05,),
    doc="eta_1, step size of the weights: one, or one for each of `bits` (or "
    "of `client_types`).",
    rules=(each(checks.not_negative),),
    converter=numbers,
    data=True,
  )
  learning_rate_decay: float = setting(
    1.0,
    "factor on eta_1 and eta_3 per round.",
    checks.positive,
    traced=True,
  )
  learning_rate_drops: tuple[int, ...] = converted(
    default=(),
    doc="rounds at which eta_1 and eta_3 drop.",
    rules=(rounds_in_order,),
    converter=whole_numbers,
  )
  learning_rate_drop_factor: float = setting(
    0.1,
    "factor by which they drop.",
    checks.not_negative,
    traced=True,
  )
  shared_optimizer: str = setting(
    "sgd",
    "of downloaded models that a client trains beside its own.",
    one_of(optimizers.OPTIMIZERS),
  )
  shared_learning_rate: float = setting(
    0.05,
    "eta_3, their step size.",
    checks.not_negative,
    data=True,
  )


@group
class LevelSettings(Group):
  """How the levels of codebooks are trained."""

  centers_optimizer: str = setting(
    "sgd", "of the levels.", one_of(optimizers.OPTIMIZERS)
  )
  centers_learning_rate: tuple[float, ...] = converted(
    default=(1e-3,),
    doc="eta_2, step size of the levels: one, or one for each of `bits` (or of "
    "`client_types`).",
    rules=(each(checks.not_negative),),
    converter=numbers,
    data=True,
  )
  centers_clip: float = setting(
    10.0,
    "bound on the gradient of a level.",
    checks.positive,
    traced=True,
  )
  centers_drops: tuple[int, ...] = converted(
    default=(),
    doc="rounds at which eta_2 drops.",
    rules=(rounds_in_order,),
    converter=whole_numbers,
  )
  centers_drop_factor: float = setting(
    0.1,
    "factor by which it drops.",
    checks.not_negative,
    traced=True,
  )
  finetune_centers_learning_rate: float = setting(
    1e-5,
    "eta_2 from `finetune_at` on.",
    checks.not_negative,
    traced=True,
  )
