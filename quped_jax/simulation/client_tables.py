"""Tables over all clients, of what programs find out about some of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from quped_jax.simulation.measures import Measure, Measured, measured

# {split: {variant: `[clients]`}}.
Scores = dict[str, dict[str, np.ndarray]]
# {split: {measure: {variant: Measured}}}.
Measures = dict[str, dict[str, dict[str, Measured]]]
# What a program found, part by part: the ids of the clients in its slots, and
# {cohort: {split: {variant: tree of floats `[slots, ...]`}}}.
Found = Iterable[tuple[Mapping[str, np.ndarray], Any]]


def table(found: Found, num_clients: int) -> dict[str, dict[str, Any]]:
  """What was found by split and variant, such as scores.

  Args:
    found: of all clients, a part of them at a time.
    num_clients: how many there are.

  Returns:
    {split: {variant: tree of float32 `[clients, ...]`}}, NaN where there is
    nothing.
  """
  result: dict[str, dict[str, Any]] = {}

  def blank(values):
    return np.full((num_clients, *values.shape[1:]), np.nan, np.float32)

  for ids, cohorts in found:
    for cohort, per_split in jax.device_get(cohorts).items():
      held = ids[cohort] >= 0

      def enter(whole, values, own=ids[cohort][held], held=held):
        whole[own] = values[: len(held)][held]

      for split, per_variant in per_split.items():
        variants = result.setdefault(split, {})
        for variant, values in per_variant.items():
          if variant not in variants:
            variants[variant] = jax.tree.map(blank, values)
          jax.tree.map(enter, variants[variant], values)
  return result


def scores_and_measures(
  found: Found, num_clients: int, measures: Mapping[str, Measure]
) -> tuple[Scores, Measures]:
  """Scores by split and variant, and measures by split, name and variant.

  Args:
    found: see `table`; of each variant (score, {measure: sums}).
    num_clients: likewise.
    measures: by name.
  """
  both = table(found, num_clients)
  scores = {
    split: {variant: score for variant, (score, _) in own.items()}
    for split, own in both.items()
  }
  values = {
    split: {
      name: {
        variant: measured(measure, sums[name])
        for variant, (_, sums) in own.items()
      }
      for name, measure in measures.items()
    }
    for split, own in both.items()
  }
  return scores, values
