"""The third step of assembly: training, budget of gradients, wrappers."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax import methods
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_method import affordable_steps, build_method
from quped_jax.experiment.training import make_training
from tests import tiny


@given(
  steps=st.integers(2, 200),
  each=st.integers(1, 20),
  beside=st.integers(0, 50),
  allowed=st.integers(1, 2000),
)
def test_affordable_steps_are_the_most_that_are_allowed(
  steps, each, beside, allowed
):
  found = affordable_steps(
    steps, allowed=allowed, of_one=beside + each, of_all=beside + each * steps
  )
  fitting = [n for n in range(1, steps + 1) if beside + each * n <= allowed]
  assert found == max(fitting, default=1)


@pytest.mark.parametrize("name", ["cfd", "fedmd", "pfedme", "per_fedavg"])
def test_gradients_grow_linearly_with_steps(name):
  """Which a budget of gradients relies on."""
  settings = tiny.make_settings(name, 3)
  federation = tiny.make_federation(tiny.COUNTS[:3])
  clients = build_clients(settings, federation)

  def gradients(steps):
    training = make_training(dataclasses.replace(settings, steps=steps))
    method = methods.get_method(name).build(
      clients.models, training, settings.options(), federation
    )
    assert method.gradients is not None
    return method.gradients

  first, second, tenth = map(gradients, (1, 2, 10))
  assert second > first
  assert tenth == first + 9 * (second - first)


def test_without_wrappers_the_method_is_the_registered_one():
  settings = tiny.make_settings("fedavg", 3)
  federation = tiny.make_federation(tiny.COUNTS[:3])
  clients = build_clients(settings, federation)
  plain = build_method(settings, federation, clients.models)
  median = build_method(
    dataclasses.replace(settings, aggregation="median"),
    federation,
    clients.models,
  )
  assert plain.method.collect is None
  assert median.method.collect is not None
  assert plain.settings.steps == plain.training.steps == settings.steps


def test_epochs_become_steps_of_the_average_client():
  settings = tiny.make_settings("local", 3, epochs=2, batch_size=4)
  federation = tiny.make_federation((8, 16, 24))
  clients = build_clients(settings, federation)
  built = build_method(settings, federation, clients.models)
  assert (built.settings.steps, built.settings.epochs) == (8, 0)
  assert built.training.steps == 8
