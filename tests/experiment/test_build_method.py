"""The third step of assembly: training, budget of gradients, wrappers."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax import checks, methods
from quped_jax.experiment.build_clients import build_clients, build_population
from quped_jax.experiment.build_method import affordable_steps, build_method
from quped_jax.experiment.training import make_training
from tests import tiny


@given(
  steps=st.integers(2, 200),
  each=st.integers(0, 20),
  beside=st.integers(0, 50),
  allowed=st.integers(1, 2000),
)
def test_affordable_steps_are_the_most_that_are_allowed(
  steps, each, beside, allowed
):
  found = affordable_steps(lambda n: beside + each * n, steps, allowed)
  fitting = [n for n in range(1, steps + 1) if beside + each * n <= allowed]
  assert found == max(fitting, default=1)


@pytest.mark.parametrize(
  ("name", "bits"),
  [
    (name, bits)
    for name in tiny.METHODS
    for bits in (1, 32)
    # APFL takes no quantized clients.
    if (name, bits) != ("apfl", 1)
  ],
)
def test_a_budget_of_gradients_buys_the_most_steps(name, bits):
  """For every method, compared with trying all numbers of steps."""
  settings = tiny.make_settings(
    name, 3, steps=6, bits=(bits,), budget="gradients"
  )
  federation = tiny.make_federation(tiny.COUNTS[:3])
  clients = build_clients(settings, federation)

  def gradients(steps):
    training = make_training(dataclasses.replace(settings, steps=steps))
    try:
      method = methods.get_method(name).build(
        clients.models, training, settings.options(), federation
      )
    except ValueError as error:
      # It trains head and body in turn, and so never with 1 step.
      assert name == "fedrep" and steps == 1, error
      return 0
    assert method.gradients is not None
    return method.gradients

  allowed = 6 * make_training(settings).gradients_per_step
  fitting = [n for n in range(1, 7) if gradients(n) <= allowed]
  built = build_method(settings, federation, clients.models)
  assert built.settings.steps == built.training.steps == max(fitting, default=1)
  assert built.method.gradients == gradients(built.settings.steps)


def test_a_budget_of_gradients_needs_no_round_of_few_steps():
  """FedRep with most of its steps on the head has no round of few steps."""
  settings = tiny.make_settings(
    "fedrep",
    3,
    steps=12,
    budget="gradients",
    method_options={"fedrep": {"head_steps": 11}},
  )
  federation = tiny.make_federation(tiny.COUNTS[:3])
  clients = build_clients(settings, federation)
  built = build_method(settings, federation, clients.models)
  assert built.settings.steps == 12


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


class Counting(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
    if train:
      count.value += 1
    return nn.Dense(tiny.CLASSES, name="last")(x)


def test_privacy_needs_statistics_to_which_noise_can_be_added():
  federation = tiny.make_federation(tiny.COUNTS[:3])
  settings = tiny.make_settings("fedavg", 3, bits=(32,))
  model = qj.from_linen(Counting(), "counting")
  models = build_clients(settings, federation, model).models
  build_method(settings, federation, models)
  private = dataclasses.replace(
    settings,
    dp_clip=1.0,
    dp_noise=1.0,
    participation=(0.5,),
    method_options={"fedavg": {"weighting": "uniform"}},
  )
  message = "dp_clip=1.0: must be 0 with model='counting', whose statistic 'co"
  with pytest.raises(ValueError, match=message):
    build_method(private, federation, models)


def test_epochs_become_steps_of_the_average_client():
  settings = tiny.make_settings("local", 3, epochs=2, batch_size=4)
  federation = tiny.make_federation((8, 16, 24))
  clients = build_clients(settings, federation)
  built = build_method(settings, federation, clients.models)
  assert (built.settings.steps, built.settings.epochs) == (8, 0)
  assert built.training.steps == 8


UNEVEN = tiny.make_federation((3, 16, 24))


def built_of_each(method, **changes):
  changes = {"epochs": 2, "epochs_of": "each", "batch_size": 4, **changes}
  settings = tiny.make_settings(method, 3, **changes)
  clients = build_clients(settings, UNEVEN)
  return build_method(settings, UNEVEN, clients.models)


def test_with_epochs_of_each_the_steps_are_those_of_its_samples():
  built = built_of_each("local", bits=(2,))
  # Two epochs of the one batch that three samples make, of 4, and of 6.
  assert built.own_steps is not None
  assert built.own_steps.tolist() == [2, 8, 12]
  assert built.settings.steps == built.training.steps == 12
  assert (built.settings.epochs, built.settings.epochs_of) == (0, "average")
  assert built.training.uneven
  assert built.method.gradients == 3 * np.mean([2, 8, 12])


def test_what_does_not_grow_with_the_steps_counts_once_for_each_client():
  options = {"fedmd": {"digest_steps": 5}}
  built = built_of_each("fedmd", bits=(32,), method_options=options)
  assert built.method.gradients == np.mean([2, 8, 12]) + 5


@pytest.mark.parametrize("method", ["ditto", "quped", "fedrep", "fedala"])
def test_a_budget_of_gradients_is_that_of_each_clients_steps(method):
  built = built_of_each(method, bits=(32,), budget="gradients")
  own = []
  for steps in (2, 8, 12):
    settings = tiny.make_settings(
      method, 3, bits=(32,), steps=steps, budget="gradients"
    )
    clients = build_clients(settings, UNEVEN)
    alone = build_method(settings, UNEVEN, clients.models)
    own.append(alone.settings.steps)
  assert built.own_steps is not None
  assert built.own_steps.tolist() == own
  assert built.settings.steps == max(own)


def test_heads_take_half_of_each_clients_steps():
  with pytest.raises(
    ValueError, match="fedrep.head_steps=1: must be 0, for ha"
  ):
    built_of_each("fedrep", method_options={"fedrep": {"head_steps": 1}})


def test_a_client_of_a_single_step_is_no_straggler_but_others_are():
  built = built_of_each("local", epochs=1, stragglers=0.5)
  assert built.own_steps is not None and built.own_steps.tolist() == [1, 4, 6]
  message = "stragglers=0.5: must be 0 where epochs=1 leaves 1 local step"
  with pytest.raises(ValueError, match=message):
    built_of_each("local", epochs=1, stragglers=0.5, batch_size=16)


def test_more_epochs_of_each_than_can_be_drawn_are_an_error():
  with pytest.raises(ValueError, match="epochs=2147483647: must be fewer"):
    built_of_each("local", epochs=2**31 - 1)


WRAPPERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
  "attack": ({"byzantine_clients": 1}, {"attack_scale": 3.0}),
  "clipping": ({"aggregation": "norm_clipped_mean"}, {"clip_norm": 0.1}),
  "privacy": (
    {"participation": (0.6,), "dp_clip": 1.0, "dp_noise": 0.5},
    {"dp_clip": 0.5, "dp_noise": 2.0},
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_take_their_numbers_as_data_too(name):
  changes, numbers = WRAPPERS[name]
  settings = tiny.make_settings(
    "fedavg", 5, bits=(32,), fedavg={"weighting": "uniform"}, **changes
  )
  other = dataclasses.replace(settings, **numbers)
  made = tiny.assemble(settings)
  federation = made.federation
  built = build_method(
    other, federation, build_clients(other, federation).models
  )
  constant = qj.make_simulation(
    built.method,
    federation,
    build_population(other),
    {tiny.COHORT: np.arange(5)},
    max_message_norm=checks.LARGEST if other.dp_clip else 0.0,
    strategy="chunks",
  )
  expected, _ = constant.run_rounds(made.state(), 2)
  ends = [tiny.to_host(expected)]
  for numbers_of in (other, settings):
    state, _ = made.simulation.program(
      made.state(), jnp.int32(2), federation, build_population(numbers_of)
    )
    ends.append(tiny.to_host(state))
  assert tiny.largest_difference(*ends[:2]) < 1e-6
  assert tiny.largest_difference(*ends[1:]) > 1e-3
  assert made.simulation.program.compilations == 1
