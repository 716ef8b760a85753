import jax.numpy as jnp
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
def test_training_is_that_of_scaffold():
  own, plain = (
    toy.run(name, 1, clients=1, bits=(32,))
    for name in ("scaffold_ft", "scaffold")
  )
  tiny.assert_same_bits(own.states[-1], plain.states[-1])


def test_the_adaptation_is_not_corrected_by_controls():
  """By hand: two clients that see all their samples in every step."""
  made = toy.linear_method("scaffold_ft", 3)
  federation = toy.linear_federation()
  server, clients = toy.begin(made, federation)
  server = server._replace(control={"w": jnp.array([5.0, -3.0])})
  client = clients[0]._replace(control={"w": jnp.array([-2.0, 7.0])})
  models = made.variants(
    server, client, federation.client(jnp.int32(0)), toy.make_context(), COHORT
  )
  w = server.model.params["w"]
  for _ in range(3):  # As many as a round has.
    w = w - toy.RATE * toy.linear_gradient(0, w)
  assert tiny.largest_difference(models["personalized"][0]["w"], w) < 1e-6


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("part", "tail", "scaffold_ft.part='tail': must be one of all, head, body"),
    ("server_learning_rate", 0.0, "scaffold_ft.server_learning_rate=0.0: must"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"scaffold_ft": {option: value}})


def test_steps_must_be_sums_of_gradients():
  settings = tiny.make_settings("scaffold_ft", 2, optimizer="adam")
  with pytest.raises(ValueError, match="with method='scaffold_ft', whose cont"):
    qj.build(settings, federation=tiny.make_federation((9, 9)))
