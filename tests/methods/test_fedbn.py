import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api, fedbn
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
NORMS = ("BatchNorm_0", "BatchNorm_1")
DENSE = ("first", "hidden_1", "last")


class Normed(nn.Module):
  """A small network with batch norm."""

  @nn.compact
  def __call__(self, inputs, train):
    x = nn.Dense(8, name="first")(inputs)
    x = nn.BatchNorm(not train, momentum=0.5)(x)
    x = nn.relu(nn.Dense(8, name="hidden_1")(x))
    x = nn.BatchNorm(not train, momentum=0.5)(x)
    return nn.Dense(tiny.CLASSES, name="last")(nn.relu(x))


MODEL = qj.from_linen(Normed(), "normed")


@pytest.fixture(scope="module")
def played():
  return toy.check_learns("fedbn", model=MODEL)


@pytest.mark.slow
def test_normalisation_stays_and_differs_among_clients(played):
  made = played.made
  before, after = played.states[0], played.states[-1]
  download = made.method.broadcast(after.server, tiny.about(0), COHORT)
  assert not jax.tree.leaves([download.params[name] for name in NORMS])
  assert not jax.tree.leaves(download.stats)
  own = after.clients[COHORT].own
  assert all(own.params[name]["kernel"] == optax.MaskedNode() for name in DENSE)
  for part in (own.params["BatchNorm_1"], own.stats["BatchNorm_1"]):
    clients = [tiny.client(part, i) for i in range(3)]
    assert tiny.largest_difference(clients[0], clients[1]) > 1e-2
    assert tiny.largest_difference(clients[1], clients[2]) > 1e-2
  for name in NORMS:
    params = (s.server.params[name] for s in (before, after))
    assert tiny.largest_difference(*params) == 0
  stats = (s.server.stats for s in (before, after))
  assert tiny.largest_difference(*stats) == 0
  # 6 -> 8 -> 8 -> 4, with biases.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8) + (8 * 4 + 4))
  assert made.simulation.bytes_down == made.simulation.bytes_up == size


@pytest.mark.slow
def test_the_rest_is_the_weighted_mean():
  """A round of two clients of full precision: each alone, then both."""
  counts = (30, 40)

  def end(chosen):
    settings = tiny.make_settings("fedbn", 2, bits=(32,))
    made = tiny.make_method(settings, MODEL)
    federation = tiny.make_federation(counts)

    @jax.jit
    def play():
      server, clients = toy.begin(made, federation)
      sums = []
      for i in chosen:
        result = made.client_update(
          made.broadcast(server, tiny.about(i), COHORT),
          clients[i],
          federation.client(jnp.int32(i)),
          toy.make_context(i),
          COHORT,
        )
        sums.append(
          made.receive(server, result.message, result.weight, None, COHORT)
        )
      total = jax.tree.map(lambda *x: sum(x), *sums)
      return made.server_update(server, {COHORT: total}, toy.at_server())

    return play().params

  first, second, both = end((0,)), end((1,)), end((0, 1))
  share = counts[0] / sum(counts)
  expected = jax.tree.map(
    lambda a, b: share * a + (1 - share) * b, first, second
  )
  assert tiny.largest_difference(both, expected) < 1e-5
  assert tiny.largest_difference(first, second) > 1e-2


@pytest.mark.slow
def test_a_clients_model_is_the_servers_with_its_normalisation(played):
  made, state = played.made, played.states[-1]
  client = tiny.client(state.clients[COHORT], 1)
  data = made.federation.client(jnp.int32(1))
  variants = made.method.variants(
    state.server, client, data, toy.make_context(1), COHORT
  )
  assert set(variants) == {"personalized", "quantized"}
  params, stats, _ = variants["personalized"]
  for name in NORMS:
    own = client.own.params[name]
    assert tiny.largest_difference(params[name], own) == 0
  assert tiny.largest_difference(stats, client.own.stats) == 0
  for name in DENSE:
    shared = state.server.params[name]
    assert tiny.largest_difference(params[name], shared) == 0
  kernel = variants["quantized"][0]["hidden_1"]["kernel"]
  assert len(np.unique(kernel)) <= 4


def test_layers_with_a_scale_are_normalisation():
  class Mixed(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      x = nn.LayerNorm(name="inner")(nn.Dense(3, name="first")(inputs))
      return nn.Dense(2, name="last")(x)

  params, _ = qj.from_linen(Mixed(), "mixed").init(
    jax.random.key(0), jnp.ones((1, 6))
  )
  assert fedbn.normalisation_layers(params) == {"inner"}
  nested = {"block": {"norm": params["inner"], "conv": params["first"]}}
  assert fedbn.normalisation_layers(nested) == {"block/norm"}


def test_a_model_without_normalisation_is_an_error_before_compilation():
  settings = tiny.make_settings("fedbn", 2, bits=(32,), model="mlp")
  with pytest.raises(ValueError, match="model='mlp': must have normalisation"):
    qj.build(settings, federation=tiny.make_federation((9, 9)))


def test_a_cohort_of_another_architecture_is_an_error():
  other = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  models = api.Models(MODEL, {"small": other})
  training = make_training(tiny.make_settings("fedbn", 2))
  with pytest.raises(ValueError, match="fedbn averages weights"):
    fedbn.make_fedbn(models, training, fedbn.FedbnOptions())


def test_an_unknown_weighting_is_an_error():
  with pytest.raises(ValueError, match="fedbn.weighting='x': must be one of"):
    qj.Settings(method_options={"fedbn": {"weighting": "x"}})
