import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import fedrod
from quped_jax.methods.blocks.extended import OWN
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def test_absent_classes_are_out_of_the_question():
  found = fedrod.log_counts(jnp.array([1.0, 0.0, 5.0]))
  np.testing.assert_allclose(found, [0.0, -1e9, np.log(5)], rtol=1e-6)


def made_of(model, bits=(32,), **options):
  settings = tiny.make_settings(
    "fedrod", 2, bits=bits, method_options={"fedrod": options}
  )
  return tiny.make_method(settings, model, tiny.make_federation((9, 9)))


def test_the_personal_head_adds_to_the_generic_one_in_one_layer():
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made, federation = made_of(model), tiny.make_federation((9, 9))
  server, (client, _) = toy.begin(made, federation)
  data = federation.client(jnp.int32(0))
  models = made.variants(server, client, data, toy.make_context(), COHORT)
  # At first it is zero.
  tiny.assert_same_bits(models["personalized"][:2], models["global"][:2])
  tiny.assert_same_bits(
    models["global"][0], {x: server.params[x] for x in ("first", "last")}
  )
  own = jax.tree.map(lambda x: x + 2.0, client.own.params)
  client = client._replace(own=client.own._replace(params=own))
  models = made.variants(server, client, data, toy.make_context(), COHORT)
  params, _, network = models["personalized"]
  assert network is model
  for name in ("kernel", "bias"):
    np.testing.assert_allclose(
      params["last"][name], server.params["last"][name] + 2, rtol=1e-6
    )


@pytest.mark.slow
def test_local_steps_are_those_of_the_objective():
  played = toy.play_one_client("fedrod", gamma=0.5)
  labels = (
    tiny.make_federation((23,))
    .client(jnp.int32(0))
    .batch(jnp.arange(23))
    .labels
  )
  prior = 0.5 * np.log(np.bincount(labels, minlength=tiny.CLASSES))
  start, _ = played.model.init(jax.random.key(0), np.ones((1, 6)))
  zeros = jax.tree.map(jnp.zeros_like, start["last"])

  def loss(params, batch):
    shared, own = params
    z = jnp.maximum(
      batch.inputs @ shared["first"]["kernel"] + shared["first"]["bias"], 0
    )
    generic = z @ shared["last"]["kernel"] + shared["last"]["bias"]
    fixed, still = jax.lax.stop_gradient((generic, z))
    both = fixed + still @ own["kernel"] + own["bias"]
    return toy.hand_labels(generic + prior, batch.labels) + toy.hand_labels(
      both, batch.labels
    )

  shared, own = toy.descend((start, zeros), loss, played.batches)
  message = played.result.message.params
  new = {x: jax.tree.map(jnp.add, start[x], message[x]) for x in start}
  assert tiny.largest_difference(new, shared) < 1e-5
  kept = played.result.client.own.params[OWN]
  assert tiny.largest_difference(kept, own) < 1e-5
  assert toy.norm(kept) > 1e-2


@pytest.mark.slow
def test_without_the_balance_the_shared_model_is_that_of_fedavg():
  own = toy.play_one_client("fedrod", gamma=0.0).result.message.params
  plain = toy.play_one_client("fedavg").result.message.params
  shared = {x: own[x] for x in plain}
  assert tiny.largest_difference(shared, plain) < 1e-6


def test_heads_that_cannot_be_added_are_errors():
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  quantized = model._replace(is_quantized=lambda path: "kernel" in path)
  assert made_of(quantized)
  with pytest.raises(ValueError, match="must not quantize 'last/kernel'"):
    made_of(quantized, bits=(2,))
  with pytest.raises(ValueError, match="'mlp': must have `features` and a `h"):
    made_of(model._replace(features=None))


def test_labels_must_not_be_smoothed():
  # They would ask for some of the classes that a client has no samples of.
  settings = tiny.make_settings("fedrod", 2, bits=(32,), label_smoothing=0.1)
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  with pytest.raises(ValueError, match="^label_smoothing: must be 0 with meth"):
    tiny.make_method(settings, model, tiny.make_federation((9, 9)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("gamma", -1.0, "fedrod.gamma=-1.0: must be at least 0"),
    ("weighting", "x", "fedrod.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedrod": {option: value}})
