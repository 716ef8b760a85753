"""Clients that send something other than they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from quped_jax.methods.wrappers import byzantine
from tests import tiny

COHORT = tiny.COHORT


def some_message() -> api.GlobalModel:
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  return api.GlobalModel(
    {"kernel": draw(3, 2), "bias": draw(2)}, {"var": draw(2)}
  )


@pytest.mark.parametrize("attack", ["random", "sign_flip"])
def test_the_last_clients_lie_and_the_others_do_not(attack):
  message = some_message()

  def client_update(download, client, data, context, cohort):
    del download, data, context, cohort
    return api.ClientResult(client, message, 7.0, {})

  method = tiny.method_of("fedavg").replace(client_update=client_update)
  lying = byzantine.with_byzantine_clients(method, 3, attack, 4.0)

  def send(client_id, seed=0):
    context = api.Context(
      round=jnp.int32(0),
      key=jax.random.key(seed),
      client_id=jnp.int32(client_id),
      spec=None,
      rates=None,
      shared_learning_rate=None,
    )
    data = tiny.make_federation((9,)).client(jnp.int32(0))
    result = lying.client_update((), "state", data, context, COHORT)
    assert result.client == "state" and result.weight == 7.0
    return result.message

  for client_id in range(3):
    assert tiny.largest_difference(send(client_id), message) == 0
  if attack == "sign_flip":
    flipped = jax.tree.map(lambda x: -4 * x, message)
    assert tiny.largest_difference(send(3), flipped) == 0
  else:
    draws = [jax.tree.leaves(send(4, seed)) for seed in range(300)]
    values = np.concatenate([np.ravel(x) for draw in draws for x in draw])
    assert abs(np.std(values) - 4) < 0.2 and abs(np.mean(values)) < 0.2


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"byzantine_clients": 40},
      "byzantine_clients=40: must be at least 0 and less than",
    ),
    ({"byzantine_clients": -1}, "byzantine_clients=-1: must be at least 0"),
    ({"attack": "lie"}, "attack='lie': must be one of random, sign_flip"),
    ({"attack_scale": 0.0}, "attack_scale=0.0: must be positive"),
  ],
)
def test_settings_that_cannot_be_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(**changes)


def test_these_are_the_attacks():
  assert byzantine.ATTACKS == ("random", "sign_flip")
