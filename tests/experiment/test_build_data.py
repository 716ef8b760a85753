"""The first step of assembly: the federation, and the public set."""

import dataclasses

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.build_data import build_federation, check_clients

SETTINGS = qj.Settings(
  clients=6, held_out_clients=2, validation_fraction=0.2, public_size=50
)
# Sample i has the value i.
NUMBERS = qj.from_arrays(
  np.arange(800, dtype=np.float32)[:, None],
  np.arange(800) % 10,
  name="numbers",
  std=1.0,
)


def of_clients(federation):
  """The samples of each client, over all its splits."""
  numbers = np.asarray(federation.source.inputs)[:, 0]
  result = [set() for _ in range(federation.num_clients)]
  for split in (federation.train, federation.validation, federation.test):
    for own, offset, count in zip(
      result, split.offset, split.count, strict=True
    ):
      assert count > 0
      own.update(numbers[split.rows[offset : offset + count]].tolist())
  return result


def test_no_sample_has_two_owners():
  federation = build_federation(SETTINGS, NUMBERS)
  assert federation.num_clients == 8 and federation.name == "numbers"
  assert federation.public is not None
  public = set(np.asarray(federation.public.source.inputs)[:, 0].tolist())
  owners = [public, *of_clients(federation)]
  assert len(public) == 50
  assert sum(map(len, owners)) == len(set.union(*owners))


def test_the_public_set_of_another_dataset_takes_nothing_from_clients():
  images = qj.load_dataset("digits").inputs[:800]
  numbers = dataclasses.replace(NUMBERS, inputs=images)
  settings = dataclasses.replace(
    SETTINGS, dataset="numbers", public_dataset="digits"
  )
  without = dataclasses.replace(settings, public_size=0, public_dataset="")
  federation = build_federation(settings, numbers)
  assert federation.public is not None and federation.public.size == 50
  np.testing.assert_array_equal(
    federation.train.rows, build_federation(without, numbers).train.rows
  )


def test_the_seed_decides_who_has_what():
  first, again, other = (
    of_clients(build_federation(dataclasses.replace(SETTINGS, seed=i), NUMBERS))
    for i in (0, 0, 1)
  )
  assert first == again != other


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"dataset": "nope"}, "dataset='nope': must be one of"),
    (
      {"public_dataset": "nope"},
      "public_dataset='nope': must be one of",
    ),
    (
      {"public_dataset": "own_source"},
      "public_dataset='own_source': must have samples of shape",
    ),
    ({"dataset": "synthetic"}, "public_size=50: must be 0 with dataset='synth"),
  ],
)
def test_data_that_cannot_be_are_errors_that_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    build_federation(dataclasses.replace(SETTINGS, **changes))


def test_a_given_federation_has_as_many_clients_as_the_settings_say():
  federation = build_federation(SETTINGS, NUMBERS)
  check_clients(SETTINGS, federation)
  more = dataclasses.replace(SETTINGS, clients=7)
  with pytest.raises(
    ValueError, match="clients=7: must be 6, so that with held"
  ):
    check_clients(more, federation)
