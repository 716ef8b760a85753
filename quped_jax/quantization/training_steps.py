"""What trains a learner, by the estimator's name: `make_alternating`."""

from __future__ import annotations

import optax

from quped_jax import checks
from quped_jax.quantization import level_rules, proximal, soft_quantizer
from quped_jax.quantization.alternating import Alternating
from quped_jax.quantization.annealing import Annealing
from quped_jax.quantization.estimators.binaryrelax import make_binaryrelax
from quped_jax.quantization.estimators.lsq import make_lsq
from quped_jax.quantization.estimators.parq import make_parq
from quped_jax.quantization.estimators.proxquant import make_proxquant
from quped_jax.quantization.estimators.ste import make_ste
from quped_jax.quantization.latent import make_latent
from quped_jax.quantization.two_losses import make_two_losses

# Each with the rule by which its levels begin, if nothing else is said.
ESTIMATORS = {
  "soft": "range",
  "hard": "range",
  "ste": "uniform",
  "lsq": "lsq",
  "binaryrelax": "uniform",
  "parq": "uniform",
  "proxquant": "range",
}


def make_alternating(
  optimizer: optax.GradientTransformation,
  centers_optimizer: optax.GradientTransformation,
  *,
  estimator: str = "soft",
  levels: str | None = None,
  annealing: Annealing | None = None,
  sharpness: float = 10.0,
  sharpness_unit: str = "gap",
  norm: str = "l1",
  center_prox: str = "exact",
  deterministic: bool = False,
  most: int | None = None,
  mixed: bool = False,
) -> Alternating:
  """Makes the step that trains weights and levels.

  Whose step size counts? Each optimizer moves its parameters by its own, so
  that in `make_alternating(optax.adam(3e-4), optax.sgd(1e-3))` these two do.
  `Rates.learning_rate` and `Rates.centers_learning_rate` scale the pull between
  weights and levels, by eta times strength, as in `prox_quantize`: give the
  optimizers' own step sizes again, as numbers or schedules. Only optimizers
  whose `update` takes an argument `learning_rate` use the rates for both, such
  as those of a federation's clients.

  Args:
    optimizer: of the parameters, with its step size; its `update` is given
      `learning_rate`, `strength` and `codebooks` as extra arguments.
    centers_optimizer: of the levels, likewise. When levels cross and are
      sorted, any moments that it keeps are not reordered with them; plain SGD
      keeps none.
    estimator: "soft" and "hard" are those of Algorithm 1, with two losses
      (`two_losses.py`): "soft" differentiates through the soft quantizer;
      "hard" runs the model at the nearest levels, through which no gradient
      reaches the parameters, quantized or not. A `penalty` runs no model: the
      parameters that are not quantized get its gradient. All others train one
      model, through latent weights (`latent.py` and `estimators/`).
    levels: for "ste", "binaryrelax" and "parq": the rule by which levels follow
      the weights in every step, "uniform" or "lsbq"; or another one of
      `level_rules.RULES`, by which they stay as they began. None for that of
      the estimator, "uniform".
    annealing: of "binaryrelax" and "parq", which need `rates.progress`; None
      for its defaults.
    sharpness: of the soft quantizer, in `sharpness_unit`.
    sharpness_unit: "gap" or "absolute".
    norm: of the regularizer, "l1" or "l2"; that of "proxquant" too.
    center_prox: "exact" or "subgradient".
    deterministic: whether steps must be the same bit for bit in every run on an
      accelerator too, as far as they add weights to levels.
    most: no learner has more levels than that, whatever its codebooks have room
      for; None if all may be in use.
    mixed: whether learners differ in how many levels they have: a program that
      runs them one at a time then does for each what its own ask for.

  Returns:
    The functions that train a learner, and how many gradients a step takes.

  Raises:
    ValueError: unknown estimator, rule, unit, norm or center_prox; a negative
      `most`.

  Examples:
    An objective takes (params, stats) and returns (loss, new stats); `{}` where
    there are no batch-norm statistics.

    >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 8)}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> rate = optax.cosine_decay_schedule(0.1, decay_steps=100)
    >>> training = qj.make_alternating(optax.sgd(rate), optax.sgd(0.01))
    >>> rates = qj.Rates(rate, 0.01, optax.linear_schedule(0.0, 1.0, 100))
    >>> def objective(params, stats):
    ...   return jnp.mean((params["kernel"] - 0.5) ** 2), stats
    >>> @jax.jit
    ... def step(learner):
    ...   return training.step(learner, objective, rates)
    >>> learner = training.init(params, {}, codebooks)
    >>> learner, loss = step(learner)
    >>> params, stats = qj.deployed(learner)

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
  """
  checks.choice("estimator", estimator, ESTIMATORS)
  soft_quantizer.check_sharpness(sharpness, sharpness_unit)
  proximal.check_norm(norm)
  proximal.check_center_method(center_prox)
  annealing = annealing or Annealing()
  rule = ESTIMATORS[estimator] if levels is None else levels
  checks.choice("levels", rule, level_rules.RULES)
  if most is not None:
    checks.whole("most", most, 0)
  optimizers = (
    optax.with_extra_args_support(optimizer),
    optax.with_extra_args_support(centers_optimizer),
  )
  latent = {
    "ste": lambda: make_ste(rule),
    "lsq": make_lsq,
    "binaryrelax": lambda: make_binaryrelax(rule, annealing),
    "parq": lambda: make_parq(rule, annealing),
    "proxquant": lambda: make_proxquant(norm),
  }
  if estimator in latent:
    return make_latent(
      *optimizers,
      latent[estimator](),
      deterministic=deterministic,
      most=most,
      mixed=mixed,
    )
  return make_two_losses(
    *optimizers,
    estimator=estimator,
    sharpness=sharpness,
    sharpness_unit=sharpness_unit,
    norm=norm,
    center_prox=center_prox,
    deterministic=deterministic,
    most=most,
    mixed=mixed,
  )
