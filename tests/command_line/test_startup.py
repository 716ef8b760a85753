"""Processes that a command joins: which arguments go together."""

import pytest

from quped_jax.command_line import startup


def join(coordinator=None, number=1, this=0, distributed=False):
  startup.join(coordinator, number, this, distributed=distributed, timeout=1.0)


def test_one_process_joins_nothing():
  join()


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("a:1", 1, 0), "num_processes=1: must be at least 2 with --coordinator"),
    ((None, 2, 0), "num_processes=2: must be 1 without --coordinator"),
    ((None, 1, 1), "process_id=1: must be 0 without --coordinator"),
    (("a:1", 2, 2), "process_id=2: must be from 0 to 1"),
    (("nowhere", 2, 0), "coordinator='nowhere': must be host:port"),
  ],
)
def test_arguments_that_do_not_go_together_are_named(args, message):
  with pytest.raises(ValueError, match=message):
    join(*args)
