import jax
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
def test_training_is_that_of_fedprox():
  own, plain = (
    toy.run(name, 1, clients=1, bits=(32,), mu=0.5)
    for name in ("fedprox_ft", "fedprox")
  )
  tiny.assert_same_bits(own.states[-1], plain.states[-1])


def test_the_adaptation_is_not_held_near_the_global_model():
  """By hand: two clients that see all their samples in every step."""
  made = toy.linear_method("fedprox_ft", 3, mu=0.7, adapt_steps=2)
  federation = toy.linear_federation()
  server, clients = toy.begin(made, federation)
  server = server._replace(params={"w": jax.numpy.array([1.0, -1.0])})
  data = federation.client(jax.numpy.int32(1))
  models = made.variants(server, clients[1], data, toy.make_context(1), COHORT)
  w = server.params["w"]
  assert models["global"][0]["w"] is w
  for _ in range(2):
    w = w - toy.RATE * toy.linear_gradient(1, w)
  assert tiny.largest_difference(models["personalized"][0]["w"], w) < 1e-6


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("adapt_steps", -2, "fedprox_ft.adapt_steps=-2: must be at least -1"),
    ("mu", -1.0, "fedprox_ft.mu=-1.0: must be at least 0"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedprox_ft": {option: value}})
