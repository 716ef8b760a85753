import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import partial
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def model():
  params = {
    "first": {"kernel": jnp.arange(4.0), "bias": jnp.ones(2)},
    "last": {"kernel": jnp.zeros(3)},
  }
  return api.GlobalModel(params, {"first": {"mean": jnp.ones(1)}})


def is_bias(path):
  return path.endswith("bias") or path.endswith("mean")


def test_a_model_is_the_union_of_its_parts():
  shared, own = partial.divide(model(), is_bias)
  assert shared.params["first"]["bias"] == optax.MaskedNode()
  assert own.params["first"]["kernel"] == optax.MaskedNode()
  assert len(jax.tree.leaves(shared)) == len(jax.tree.leaves(own)) == 2
  for whole in (partial.merge(shared, own), partial.merge(own, shared)):
    assert jax.tree.structure(whole) == jax.tree.structure(model())
    assert tiny.largest_difference(whole, model()) == 0


def make(predicate, weighting="samples"):
  """The block on the linear model, and FedAvg beside it."""
  settings = tiny.make_settings("fedavg", 2, bits=(32,), steps=3, batch_size=2)
  training = make_training(settings)._replace(loss=toy.squared_loss)
  return partial.partial_method(
    "partial",
    api.Models(shared=toy.LINEAR, clients={COHORT: toy.LINEAR}),
    training,
    lambda params: predicate,
    weighting=weighting,
  )


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_where_nothing_is_a_clients_own_it_is_fedavg(weighting):
  federation = toy.linear_federation()
  made = make(lambda path: False, weighting)
  server, clients = toy.play(made, federation, 2)
  plain = toy.linear_method("fedavg", 3, weighting=weighting)
  other, _ = toy.play(plain, federation, 2)
  assert tiny.largest_difference(server, other.model) < 1e-6
  assert not jax.tree.leaves(clients[0].own)
  assert np.abs(server.params["w"]).max() > 0.1


def test_where_everything_is_a_clients_own_nothing_is_shared():
  """That would be local training, which sends nothing unnoticed."""
  made = make(lambda path: path.startswith("w"))
  with pytest.raises(
    ValueError,
    match="method='partial': must share a part of the model, but all "
    "parameters of model='linear' are each client's own",
  ):
    toy.begin(made, toy.linear_federation())
