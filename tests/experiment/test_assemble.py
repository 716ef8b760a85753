import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import checks, methods
from quped_jax.experiment.assemble import (
  assemble,
  assemble_parts,
  programs_of,
)
from quped_jax.experiment.parts import make_parts
from quped_jax.methods.blocks import averaging, partial, requirements
from tests import tiny


def made(method="quped", **changes):
  settings = tiny.make_settings(method, 3, **changes)
  return assemble(settings, federation=tiny.make_federation(tiny.COUNTS[:3]))


def test_a_budget_of_steps_is_the_same_for_every_method():
  assert made(steps=8).settings.steps == 8


def test_epochs_are_those_of_the_average_client():
  # 5, 23 and 40 samples are 22 on average: two batches of eight.
  assert made(epochs=1).settings.steps == 2
  assert made(epochs=3).settings.steps == 6


@pytest.mark.parametrize(
  ("bits", "steps", "expected"),
  # In gradient evaluations: a step of local training takes 1, or 3 with levels;
  # a step of QuPeD takes 2, or 4.
  [((32,), 8, 4), ((32,), 9, 4), ((32,), 1, 1), ((1,), 8, 6), ((1, 32), 4, 3)],
)
def test_a_budget_of_gradients_gives_fewer_steps(bits, steps, expected):
  assembly = made(bits=bits, steps=steps, budget="gradients")
  assert assembly.settings.steps == expected
  per_step = 2 if bits == (32,) else 4
  assert assembly.simulation.gradients == expected * per_step


def test_a_budget_of_gradients_is_found_in_a_few_tries(monkeypatch):
  entry, makes = methods.get_method("quped"), []

  def make(*args):
    makes.append(args)
    return entry.make(*args)

  monkeypatch.setitem(methods.METHODS, "quped", entry._replace(make=make))
  assembly = made(bits=(32,), steps=10**5, budget="gradients")
  assert assembly.settings.steps == 50000
  assert len(makes) < 10


def test_a_budget_of_gradients_is_of_a_method_that_counts_them():
  def make(models, training, options):
    local = methods.get_method("local")
    method = local.build(models, training, options, None)
    return method.replace(gradients=None)

  before = dict(methods.METHODS)
  qj.register_method("uncounted", make, methods.get_method("local").options)
  try:
    settings = qj.Settings(method="uncounted", clients=4, budget="gradients")
    with pytest.raises(ValueError, match="budget='gradients': must be 'steps'"):
      qj.build(settings)
  finally:
    methods.METHODS.clear()
    methods.METHODS.update(before)


@pytest.fixture
def sending(monkeypatch):
  """Changes the messages of FedAvg, whose server makes nothing of them."""
  entry = methods.get_method("fedavg")

  def change_messages(change):
    def make(models, training, options):
      fedavg = averaging.averaging_method("fedavg", models, training)

      def client_update(*args):
        result = fedavg.client_update(*args)
        return result._replace(message=change(result.message))

      return fedavg.replace(
        client_update=client_update,
        server_update=lambda server, aggregates, context: server,
        averages=False,
      )

    monkeypatch.setitem(methods.METHODS, "fedavg", entry._replace(make=make))

  return change_messages


@pytest.mark.parametrize(
  "empty",
  [
    lambda model: partial.prune(model, lambda path: path == "nowhere"),
    lambda model: {},
    lambda model: jnp.zeros((3, 0)),
  ],
)
def test_a_method_with_empty_messages_is_named_in_a_warning(sending, empty):
  sending(empty)
  with pytest.warns(
    UserWarning, match="method='fedavg': .* of cohort clients are empty"
  ):
    simulation = made(method="fedavg").simulation
  assert simulation.bytes_up == 0


@pytest.mark.parametrize(
  "message", [lambda model: (), lambda model: None, lambda model: model]
)
def test_a_method_that_sends_nothing_or_something_is_not(sending, message):
  sending(message)
  assert made(method="fedavg").simulation.empty_messages == ()


@pytest.mark.slow
def test_the_global_model_can_be_another_network():
  settings = tiny.make_settings(
    "quped", 3, shared_model="mlp", shared_hidden=(4,)
  )
  simulation, _, _ = qj.build(
    settings, federation=tiny.make_federation(tiny.COUNTS[:3])
  )
  # 6 -> 4 -> 4, with biases.
  assert simulation.bytes_up == 4 * ((6 * 4 + 4) + (4 * 4 + 4))
  state, metrics = simulation.run_round(simulation.init(0))
  assert metrics["loss"] > 0
  assert state.server.params["first"]["kernel"].shape == (6, 4)


@pytest.mark.parametrize("method", ["fedavg", "qupel"])
def test_methods_that_average_weights_refuse_another_network(method):
  settings = tiny.make_settings(
    method, 3, shared_model="mlp", shared_hidden=(8, 7)
  )
  federation = tiny.make_federation(tiny.COUNTS[:3])
  with pytest.raises(ValueError, match=f"shared_model=.*{method} averages"):
    qj.build(settings, federation=federation)
  # Naming the same network again is allowed.
  same = dataclasses.replace(settings, shared_hidden=(8, 8))
  qj.build(same, federation=federation)


@pytest.mark.parametrize("estimator", ["binaryrelax", "parq"])
def test_models_that_anneal_have_sizes_before_and_after_a_run(estimator):
  assembly = made("local", estimator=estimator, bits=(2, 32))
  plain = made("local", bits=(2, 32))
  assert assembly.model_bytes().tolist() == plain.model_bytes().tolist()
  assert list(assembly.variants(tiny.COHORT, 0)) == [
    "personalized",
    "quantized",
  ]


def test_settings_and_federation_are_what_makes_them_makes():
  data = qj.from_arrays(np.eye(4), [0, 1, 0, 1])
  with pytest.raises(ValueError, match="^settings: must be a Settings, "):
    qj.run({"clients": 3})  # pyright: ignore[reportArgumentType]
  with pytest.raises(ValueError, match="^federation: must be a Federation"):
    qj.build(qj.Settings(), federation=data)  # pyright: ignore


def test_runs_of_the_same_programs_count_their_own_gradients():
  settings = tiny.make_settings(
    "local", 3, epochs=1, epochs_of="each", batch_size=4, bits=(32,)
  )
  # As many samples in all, and as many of the largest client.
  federations = [
    tiny.make_federation(counts) for counts in ((8, 16, 20), (9, 15, 20))
  ]
  parts = [make_parts(settings, federation=x) for x in federations]
  first = assemble_parts(parts[0], others=federations[1:])
  assert first.simulation.gradients == (2 + 4 + 5) / 3
  second = programs_of(first)(parts[1], None)
  assert second.simulation.gradients == (2 + 3 + 5) / 3
  assert second.simulation.program is first.simulation.program


def test_widths_are_of_a_perceptron():
  with pytest.raises(ValueError, match=r"shared_hidden=\(4,\): must be \(\)"):
    qj.Settings(shared_hidden=(4,))
  with pytest.raises(ValueError, match="shared_model='mpl': must be one of"):
    qj.Settings(shared_model="mpl", shared_hidden=(4,))
  with pytest.raises(ValueError, match=r"shared_hidden=\(0,\): must be posit"):
    qj.Settings(shared_model="mlp", shared_hidden=(0,))


def test_an_unknown_shared_network_is_named():
  with pytest.raises(ValueError, match="shared_model='wrong': must be one of"):
    made(shared_model="wrong")


@pytest.mark.parametrize(
  ("check", "message"),
  [
    (
      lambda: checks.at_least("x.k", 0, 1),
      "x.k=0: must be at least 1",
    ),
    (
      lambda: requirements.check_public("fedmd", None, labelled=True),
      "public_size=0: must be positive with method='fedmd'",
    ),
  ],
)
def test_checks_name_the_field(check, message):
  with pytest.raises(ValueError, match=message):
    check()
