"""How step sizes and the regularizer's strength change from round to round."""

import dataclasses

import jax
import jax.numpy as jnp

from quped_jax.quantization.alternating import Rates


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Factors by round, which multiply each client's own rates.

  Attributes:
    learning_rate_decay: factor per round on the step sizes of weights and of
      downloaded models.
    learning_rate_drops: rounds at which these are multiplied, once each, by
      `learning_rate_drop_factor`.
    learning_rate_drop_factor: the factor at each of `learning_rate_drops`.
    centers_drops: rounds at which the levels' step size is multiplied by
      `centers_drop_factor`.
    centers_drop_factor: the factor at each of `centers_drops`.
    strength_ramp: whether the strength is multiplied by round + 1.
    strength_drop_factor: factor on the strength at each of
      `learning_rate_drops`.
    finetune_at: the round with which the fine-tuning phase begins; 0 for never.
    finetune_centers_learning_rate: step size of the levels from then on.
  """

  learning_rate_decay: float = 1.0
  learning_rate_drops: tuple[int, ...] = ()
  learning_rate_drop_factor: float = 0.1
  centers_drops: tuple[int, ...] = ()
  centers_drop_factor: float = 0.1
  strength_ramp: bool = True
  strength_drop_factor: float = 1.0
  finetune_at: int = 0
  finetune_centers_learning_rate: float = 1e-5

  def rates(
    self,
    base: Rates,
    shared_learning_rate: jax.Array,
    round_: jax.Array,
    rounds: jax.Array | None = None,
  ) -> tuple[Rates, jax.Array]:
    """The rates of a round.

    Args:
      base: a client's own rates, at round 0.
      shared_learning_rate: step size of downloaded models, at round 0.
      round_: int32 `[]`, may be traced.
      rounds: float32 `[]`, how many rounds the training has, for
        `Rates.progress`; None if that is not asked for.

    Returns:
      The client's rates, and the step size of downloaded models.
    """

    def drops(rounds, factor):
      product = 1.0
      for at in rounds:
        product = jnp.where(round_ >= at, product * factor, product)
      return product

    decay = jnp.power(self.learning_rate_decay, round_.astype(jnp.float32))
    weights = decay * drops(
      self.learning_rate_drops, self.learning_rate_drop_factor
    )
    centers = base.centers_learning_rate * drops(
      self.centers_drops, self.centers_drop_factor
    )
    if self.finetune_at:
      centers = jnp.where(
        round_ >= self.finetune_at, self.finetune_centers_learning_rate, centers
      )
    strength = drops(self.learning_rate_drops, self.strength_drop_factor)
    if self.strength_ramp:
      strength *= round_ + 1
    rates = Rates(
      learning_rate=base.learning_rate * weights,
      centers_learning_rate=centers,
      strength=base.strength * strength,
      progress=None if rounds is None else round_ / rounds,
    )
    return rates, shared_learning_rate * weights
