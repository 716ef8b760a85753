"""Clients that send something other than they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from quped_jax.methods.blocks import label_outputs, quantized_labels
from quped_jax.methods.blocks.counted import Counted
from quped_jax.methods.fedgkt import FedgktMessage
from quped_jax.methods.wrappers import byzantine
from tests import tiny
from tests.methods import toy

COHORT = tiny.COHORT


def some_message() -> api.GlobalModel:
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  return api.GlobalModel(
    {"kernel": draw(3, 2), "bias": draw(2)}, {"var": draw(2)}
  )


@pytest.mark.slow
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


def lie(name: str, message, samples: int = 23, attack: str = "sign_flip"):
  """What the Byzantine client 1 sends in place of a message."""

  def client_update(download, client, data, context, cohort):
    del download, data, context, cohort
    return api.ClientResult(client, message, 1.0, {})

  method = tiny.method_of(name).replace(client_update=client_update)
  lying = byzantine.with_byzantine_clients(method, 1, attack, 10.0)
  data = tiny.make_federation((samples,)).client(jnp.int32(0))
  context = toy.make_context(1)
  sent = lying.client_update((), (), data, context, COHORT).message
  believed = jax.tree.leaves(method.plausible(sent, jnp.int32(samples)))
  assert all(bool(part) for part in believed)
  return sent


@pytest.mark.slow
@pytest.mark.parametrize(
  "attack", ["sign_flip", pytest.param("random", marks=pytest.mark.long)]
)
def test_no_lie_is_one_that_the_server_sees_through(attack):
  soft = jax.nn.softmax(jnp.arange(4.0) * jnp.arange(24.0)[:, None])
  # Each soft label names another class.
  sent = lie("ds_fl", soft, attack=attack)
  np.testing.assert_array_equal(sent, jnp.roll(soft, 1, axis=1))
  # The model is false in any case, the counts are those of other labels.
  counts = jnp.array([20.0, 3.0, 0.0, 0.0])
  message = Counted(api.GlobalModel(jnp.ones(2), {}), counts)
  sent = lie("fedgen", message, attack=attack)
  np.testing.assert_array_equal(sent.counts, jnp.array([0.0, 20.0, 3.0, 0.0]))
  assert not np.any(np.asarray(sent.model.params) == 1)
  if attack == "sign_flip":
    np.testing.assert_array_equal(sent.model.params, [-10.0, -10.0])
  # So does each byte of packed labels, here of two samples.
  bits = quantized_labels.encode(soft, 1)
  sent = lie("cfd", bits, attack=attack)
  np.testing.assert_array_equal(sent, jnp.roll(bits, 1))
  # The sums are of other outputs; of the counts any change would be noticed.
  labels = jnp.arange(40) % 4
  outputs = label_outputs.collect(jnp.eye(4)[labels][:37], labels[:37])
  sent = lie("fd", outputs, attack=attack)
  np.testing.assert_array_equal(sent.sums, jnp.roll(outputs.sums, 1, axis=1))
  np.testing.assert_array_equal(sent.counts, outputs.counts)
  # Features and logits may be anything, labels are those of other samples.
  labels = jnp.arange(23, dtype=jnp.int32) % 4
  message = FedgktMessage(
    jnp.ones((23, 8)), jnp.ones((23, 4)), labels, jnp.int32(23)
  )
  sent = lie("fedgkt", message, attack=attack)
  np.testing.assert_array_equal(sent.labels, jnp.roll(labels, 1))
  assert sent.count == 23 and not np.any(np.asarray(sent.features) == 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "attack"),
  [
    ("cfd", "random"),
    pytest.param("fedgkt", "sign_flip", marks=pytest.mark.long),
  ],
)
def test_any_method_can_be_attacked(name, attack):
  """Whose messages have integers too."""
  settings = tiny.make_settings(
    name, 3, bits=(32,), byzantine_clients=1, attack=attack,
    max_message_norm=1e30,
  )  # fmt: skip
  simulation = tiny.assemble(settings).simulation
  state, metrics = simulation.run_round(simulation.init(0))
  assert (metrics["participants"], metrics["diverged"]) == (3, 0)
  for x in jax.tree.leaves(state.server):
    assert np.all(np.isfinite(x))


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
