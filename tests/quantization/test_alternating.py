"""What a learner is, and what becomes of it."""

import chex

from quped_jax.quantization.alternating import current, deployed, freeze
from quped_jax.quantization.codebook_tree import (
  full_precision,
  hard_quantize_tree,
)
from tests.quantization.learners import make, make_learner, make_params


def test_deployed_and_current_models():
  alternating = make()
  learner = make_learner(alternating)
  params, stats = deployed(learner)
  chex.assert_trees_all_equal(
    params, hard_quantize_tree(learner.params, learner.codebooks)
  )
  assert stats is learner.quantized_stats
  assert current(learner) == (learner.params, learner.stats)
  frozen = freeze(learner)
  assert deployed(frozen) == (frozen.params, frozen.quantized_stats)
  assert current(frozen) == (frozen.params, frozen.quantized_stats)
  full = make_learner(alternating, codebooks=full_precision(make_params()))
  assert deployed(full) == (full.params, full.stats)
  assert current(full) == (full.params, full.stats)
