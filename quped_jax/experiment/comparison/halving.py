"""Successive halving: of many trials, fewer and fewer go on.

The first rung of trials trains for few rounds. The better half of them goes on
for as many rounds again, of these the better half for twice as many, and so on,
until the last rung has trained for all rounds. So more trials begin than with
the same number of rounds for each, and all trials of a method together take
exactly as many rounds.

References:
  Jamieson and Talwalkar, Non-stochastic best arm identification and
  hyperparameter optimization, 2016.
"""

from collections.abc import Mapping
from typing import Any

from quped_jax import checks


def check(section: Mapping[str, Any]) -> None:
  """Checks how often trials are halved.

  Args:
    section: of the config, `tune`; its number of rounds is right.

  Raises:
    ValueError: a number that is not allowed, or too large for the rounds.
  """
  halvings, rounds = halvings_of(section), section["rounds"]
  checks.whole("tune.halving", halvings, 0)
  # Rounds are halved as often, without a rest.
  most = (rounds & -rounds).bit_length() - 1
  if halvings > most:
    raise ValueError(
      f"tune.halving={halvings}: must be at most {most} with "
      f"tune.rounds={rounds}, which are halved as often as the trials"
    )


def halvings_of(section: Mapping[str, Any]) -> int:
  """How often trials are halved; 0 for never."""
  return section.get("halving", 0)


def rounds_of_rungs(section: Mapping[str, Any]) -> list[int]:
  """After how many rounds each rung of trials ends, from the first on."""
  halvings, rounds = halvings_of(section), section["rounds"]
  return [rounds >> (halvings - rung) for rung in range(halvings + 1)]


def sizes_of_rungs(trials: int, halvings: int, most: int) -> list[int]:
  """How many trials each rung has.

  They take as many rounds as `trials` that all train to the end. Each rung has
  about half as many as the one before, as far as there are trials to begin
  with: of few, more go on.

  Args:
    trials: how many could be trained to the end.
    halvings: how often trials are halved.
    most: how many there are to begin with at most, no fewer than `trials`.
  """
  # In units of the rounds of the first rung, which the second adds once more,
  # the third twice, and so on.
  costs = [1, *(2**rung for rung in range(halvings))]
  budget = trials * 2**halvings

  def sizes(first: int) -> list[int]:
    return [max(1, min(most, first >> rung)) for rung in range(halvings + 1)]

  def left(found: list[int]) -> int:
    return budget - sum(n * c for n, c in zip(found, costs, strict=True))

  first = 1
  while left(sizes(first + 1)) >= 0 and sizes(first)[-1] < most:
    first += 1
  found = sizes(first)
  # What rounding leaves goes to the last rung that has room for it.
  while rest := left(found):
    rung = max(
      rung
      for rung, (size, cost) in enumerate(zip(found, costs, strict=True))
      if cost <= rest and size < (found[rung - 1] if rung else most)
    )
    found[rung] += 1
  return found
