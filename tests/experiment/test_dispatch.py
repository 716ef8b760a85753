"""How many rounds go in one dispatch, and after which round it ends."""

import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.dispatch import next_stop, rounds_at_once
from tests import tiny


@pytest.mark.parametrize(
  ("done", "at_once", "stop"),
  [(0, 100, 4), (3, 100, 4), (4, 100, 6), (6, 100, 8), (8, 100, 10), (0, 3, 3)],
)
def test_a_dispatch_ends_where_something_happens(done, at_once, stop):
  given = qj.Settings(rounds=10, eval_every=4, finetune_at=6)
  assert next_stop(given, done, at_once) == stop


def test_a_dispatch_ends_where_a_checkpoint_is_due():
  given = qj.Settings(rounds=10, eval_every=4, checkpoint_every=3)
  assert [next_stop(given, done, 100) for done in range(10)] == [
    *(3, 3, 3, 4, 6, 6, 8, 8, 9, 10),
  ]


@pytest.mark.slow
def test_how_many_rounds_go_at_once_follows_from_the_settings():
  federation = tiny.make_federation(tiny.COUNTS[:3])

  def count(**changes):
    given = tiny.make_settings("local", 3, hidden=(), **changes)
    return rounds_at_once(assemble(given, federation=federation))

  assert count(rounds_per_dispatch=7) == 7
  few, many = count(steps=10**5), count(steps=10**4)
  assert 1 <= few < many
