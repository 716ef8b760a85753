import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_schedule
from quped_jax.methods import api
from quped_jax.methods.blocks import trees
from tests import tiny
from tests.by_hand import by_hand
from tests.methods import toy

COHORT = tiny.COHORT


@pytest.mark.slow
def test_one_client_alone_is_centralized_gradient_descent():
  made = tiny.tiny("fedavg", num_clients=1, bits=(32,), batch_size=5)
  server = made.state().server.model.params
  data = made.federation.client(jnp.int32(0))
  params = server
  for round_ in range(2):
    key = jax.random.fold_in(jax.random.key(0), round_)
    draw_key, _ = jax.random.split(jax.random.fold_in(key, 0))
    for positions in data.draw(draw_key, 5, 5):
      batch = data.batch(positions)

      def loss(params, batch=batch):
        logits, _ = made.model.apply(params, {}, batch.inputs, True)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(5), batch.labels]
        return -jnp.mean(chosen)

      params = jax.tree.map(
        lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)
      )
  trained = made.play(2).server.model.params
  assert tiny.largest_difference(trained, params) < 1e-5
  assert tiny.largest_difference(trained, server) > 1e-2


@pytest.mark.slow
def test_each_round_has_a_new_optimizer_of_each_client():
  """As in frameworks that make one when a client is asked to train."""
  federation = tiny.make_federation((8, 20))
  settings = tiny.make_settings(
    "fedavg", 2, bits=(32,), epochs=2, epochs_of="each", batch_size=4,
    optimizer="momentum", momentum=0.9, weight_decay=0.01,
    learning_rate=(0.02,),
  )  # fmt: skip
  made = qj.build(settings, federation=federation)
  state = made.simulation.init(0)
  expected = jax.tree.map(np.array, state.server.model.params)
  for round_ in range(2):
    state, _ = made.simulation.run_round(state)
    own = [
      by_hand(
        made.model, federation, expected, i, steps, round_=round_, rate=0.02,
        momentum=0.9, weight_decay=0.01,
      )[0]
      for i, steps in enumerate((4, 10))
    ]  # fmt: skip
    expected = jax.tree.map(lambda a, b: (8 * a + 20 * b) / 28, *own)
  assert tiny.largest_difference(state.server.model.params, expected) < 1e-5


def make(**options):
  settings = tiny.make_settings(
    "fedavg", 2, bits=(32,), method_options={"fedavg": options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made = tiny.make_method(settings, model)
  server = made.init_server(jax.random.key(0), jnp.ones((1, 6)))
  return made, server


def aggregate(made, server, values, weights):
  """What the server has received: messages full of these values."""
  sums = [
    made.receive(
      server,
      jax.tree.map(lambda p, v=v: jnp.full_like(p, v), server.model),
      weight,
      None,
      COHORT,
    )
    for v, weight in zip(values, weights, strict=True)
  ]
  return {COHORT: jax.tree.map(lambda *x: sum(x), *sums)}


def moved(made, server, values=(1.0, 3.0), weights=(3.0, 1.0)):
  """How far a server update moves every weight, and the new server."""
  new = made.server_update(
    server, aggregate(made, server, values, weights), None
  )
  steps = trees.difference(new.model.params, server.model.params)
  leaves = np.concatenate([np.ravel(x) for x in jax.tree.leaves(steps)])
  assert np.ptp(leaves) < 1e-5
  return float(leaves[0]), new


def test_the_plain_server_takes_the_weighted_mean():
  made, server = make()
  np.testing.assert_allclose(moved(made, server)[0], 1.5, rtol=1e-5)
  made, server = make(server_learning_rate=0.5)
  np.testing.assert_allclose(moved(made, server)[0], 0.75, rtol=1e-5)


def test_a_server_with_momentum_goes_on_in_its_direction():
  made, server = make(server_optimizer="momentum", server_momentum=0.5)
  first, server = moved(made, server)
  second, server = moved(made, server, values=(0.0, 0.0))
  np.testing.assert_allclose([first, second], [1.5, 0.75], rtol=1e-5)


@pytest.mark.parametrize(
  "constants",
  [
    {},
    {"server_momentum": 0.5, "server_beta2": 0.9, "server_tau": 0.1},
  ],
)
def test_fedadam_is_that_of_its_paper(constants):
  """Algorithm 2 of Reddi et al., in Python; the defaults are the paper's."""
  beta1 = constants.get("server_momentum", 0.9)
  beta2 = constants.get("server_beta2", 0.99)
  tau = constants.get("server_tau", 1e-3)
  made, server = make(
    server_optimizer="adam", server_learning_rate=0.03, **constants
  )
  m, v = 0.0, tau**2
  for values in ((1.0, 3.0), (-2e-3, 1e-3), (0.0, 0.0)):
    delta = (3 * values[0] + values[1]) / 4
    m = beta1 * m + (1 - beta1) * delta
    v = beta2 * v + (1 - beta2) * delta**2
    step, server = moved(made, server, values)
    np.testing.assert_allclose(step, 0.03 * m / (v**0.5 + tau), rtol=1e-4)


def test_a_server_with_bias_correction_steps_by_its_step_size():
  made, server = make(server_optimizer="adamw", server_learning_rate=0.01)
  for values in ((1.0, 3.0), (1e-3, 2e-3)):
    step, _ = moved(made, server, values)
    np.testing.assert_allclose(step, 0.01, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_a_server_that_hears_nobody_stays_as_it_is(optimizer):
  made, server = make(server_optimizer=optimizer)
  _, server = moved(made, server)
  nobody = aggregate(made, server, (1.0, 3.0), (0.0, 0.0))
  after = made.server_update(server, nobody, toy.at_server())
  for x, y in zip(jax.tree.leaves(server), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_clients_weigh_by_their_samples_or_equally(weighting):
  options = (("weighting", weighting),)
  made = tiny.tiny("fedavg", bits=(32,), options=options)
  state = made.state()
  # With no batch norm and one step size of zero, only client 3 moves w.
  rates = made.population.rates
  only = rates._replace(
    learning_rate=jnp.zeros_like(rates.learning_rate).at[3].set(0.1)
  )
  new = made.round_with(made.population._replace(rates=only))
  step = trees.difference(new.server.model.params, state.server.model.params)
  alone = tiny.tiny("local", bits=(32,))
  mine = trees.difference(
    tiny.client(alone.play(1).clients[COHORT].params, 3),
    tiny.client(alone.state().clients[COHORT].params, 3),
  )
  share = 64 / sum(tiny.COUNTS) if weighting == "samples" else 1 / 5
  expected = jax.tree.map(lambda x: share * x, mine)
  assert tiny.largest_difference(step, expected) < 1e-6
  assert (
    tiny.largest_difference(step, jax.tree.map(jnp.zeros_like, step)) > 1e-3
  )


@pytest.mark.slow
def test_full_precision_is_that_of_32_bit_clients_in_a_mixed_program():
  mixed = tiny.tiny("fedavg")
  own = mixed.play(1, state=tiny.full_precision(mixed.state()))
  static = tiny.tiny("fedavg", bits=(32,)).play(1)
  difference = tiny.largest_difference(own.server.model, static.server.model)
  assert difference < 1e-5
  assert tiny.tiny("fedavg", bits=(32,)).method.primary_variant == "global"


class Normed(nn.Module):
  """A small network with batch norm."""

  @nn.compact
  def __call__(self, inputs, train):
    x = nn.Dense(8, name="first")(inputs)
    x = nn.BatchNorm(not train, momentum=0.5)(x)
    x = nn.relu(nn.Dense(8, name="hidden_1")(x))
    x = nn.BatchNorm(not train, momentum=0.5)(x)
    return nn.Dense(tiny.CLASSES, name="last")(nn.relu(x))


@functools.cache
def play_normed(name: str):
  """A round of two clients, of 1 and 32 bits, with batch norm."""
  settings = tiny.make_settings(
    name,
    2,
    bits=(1, 32),
    method_options={"fedavg": {"weighting": "uniform"}},
  )
  made = tiny.assemble(
    settings,
    tiny.make_federation((30, 40)),
    qj.from_linen(Normed(), "normed"),
  )
  state = made.simulation.init(0)
  before = tiny.to_host(state)
  state, _ = made.simulation.run_round(state)
  return made, before, state


@pytest.fixture(
  params=["fedavg", pytest.param("quped", marks=pytest.mark.slow)]
)
def normed(request):
  return play_normed(request.param)


def shared_model(state):
  return getattr(state.server, "model", state.server)


@pytest.mark.slow
def test_statistics_travel_and_are_averaged(normed):
  made, before, state = normed

  @jax.jit
  def sent(client_id, start):
    spec, base = made.population.of_client(client_id)
    rates, shared = make_schedule(made.settings).rates(
      base, made.population.shared_learning_rate, jnp.int32(0)
    )
    key = jax.random.fold_in(jax.random.fold_in(start.key, 0), client_id)
    context = api.Context(jnp.int32(0), key, client_id, spec, rates, shared)
    return made.method.client_update(
      made.method.broadcast(start.server, context, COHORT),
      tiny.client(start.clients[COHORT], client_id),
      made.federation.client(client_id),
      context,
      COHORT,
    ).message.stats

  start = tiny.from_host(before)
  messages = [sent(jnp.int32(i), start) for i in range(2)]
  old = shared_model(before).stats
  expected = jax.tree.map(lambda s, a, b: s + (a + b) / 2, old, *messages)
  new = shared_model(state).stats
  assert tiny.largest_difference(new, expected) < 1e-5
  assert tiny.largest_difference(*messages) > 1e-2
  assert tiny.largest_difference(new, old) > 1e-2


@pytest.mark.slow
def test_the_quantized_model_has_statistics_of_its_own(normed):
  made, before, state = normed
  if made.settings.method == "fedavg":
    # What the 1-bit client sent; at full precision nothing is sent of them.
    new = shared_model(state).quantized_stats.values
    old = shared_model(before).quantized_stats.values
    assert tiny.largest_difference(new, old) > 1e-2
    plain = shared_model(state).stats["BatchNorm_1"]
    own = tiny.client(new, 0)["BatchNorm_1"]
    assert tiny.largest_difference(own, plain) > 1e-2
    return
  client = state.clients[COHORT]
  old = before.clients[COHORT].quantized_stats
  assert tiny.largest_difference(client.quantized_stats, old) > 1e-2
  apart = [
    tiny.largest_difference(
      tiny.client(client.stats, i)["BatchNorm_1"],
      tiny.client(client.quantized_stats, i)["BatchNorm_1"],
    )
    for i in range(2)
  ]
  # The 1-bit client's differ; at full precision both are of one model.
  assert apart[0] > 1e-2 and apart[1] < 1e-6


@pytest.mark.slow
def test_statistics_are_estimated_again_on_a_clients_own_quantized_model():
  made, _, state = play_normed("quped")
  data = made.federation.client(jnp.int32(0))
  context = api.Context(0, jax.random.key(3), 0, None, None, None)
  client = tiny.client(state.clients[COHORT], 0)
  variants = made.method.variants(state.server, client, data, context, COHORT)
  params, stats, _ = variants["quantized"]
  kept = client.quantized_stats
  assert tiny.largest_difference(stats, kept) > 1e-3
  assert made.settings.recalibration_batches == 10
  positions = data.draw(context.key, 10, tiny.BATCH)

  # The running average over the batches, as if nothing had been before them:
  # far from zero it would have forgotten where it started.
  def running(start):
    current = jax.tree.map(lambda s: jnp.full_like(s, start), kept)
    for position in positions:
      inputs = data.batch(position).inputs
      _, current = made.model.apply(params, current, inputs, True)
    return current

  zero, one = running(0.0), running(1.0)
  expected = jax.tree.map(lambda z, o: z / (1 - (o - z)), zero, one)
  assert tiny.largest_difference(stats, expected) < 1e-4


@pytest.mark.long
def test_a_residual_network_with_batch_norm_trains():
  images = np.random.default_rng(0).normal(size=(24, 8, 8, 3))
  rows = np.arange(24, dtype=np.int32)
  nothing = (rows[:0], rows[:0])
  parts = qj.data.Partition((rows[:8], rows[8:16]), nothing, (rows[16:],) * 2)
  federation = qj.make_federation(
    qj.from_arrays(images, rows % 2), parts, augment="crop_flip"
  )
  settings = qj.Settings(
    method="fedavg", model="resnet8", clients=2, bits=(32,), steps=1,
    batch_size=4, rounds=1,
  )  # fmt: skip
  simulation, _, _ = qj.build(settings, federation=federation)
  state = simulation.init(0)
  before = tiny.to_host(state)
  state, metrics = simulation.run_round(state)
  after = state.server.model
  assert tiny.largest_difference(after.stats, before.server.model.stats) > 1e-3
  assert tiny.largest_difference(after.params, before.server.model.params) > 0
  assert np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"server_optimizer": "lion"}, "server_optimizer='lion': must be one of"),
    ({"server_learning_rate": 0.0}, "server_learning_rate=0.0: must be posit"),
    ({"server_momentum": 1.5}, "fedavg.server_momentum=1.5: must be from 0"),
    ({"server_beta2": -0.1}, "fedavg.server_beta2=-0.1: must be from 0 to 1"),
    ({"server_tau": 0.0}, "fedavg.server_tau=0.0: must be positive"),
    (
      {"server_optimizer": "adam", "server_momentum": 1.0},
      "fedavg.server_momentum=1.0: must be less than 1",
    ),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedavg": options})
