import jax
import jax.numpy as jnp
import optax
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def parts(**options):
  """What the server sends, and what is a client's own, on three layers."""
  settings = tiny.make_settings(
    "fedper", 1, bits=(32,), method_options={"fedper": options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  made = tiny.make_method(settings, model)
  server, (client,) = jax.eval_shape(
    lambda: toy.begin(made, tiny.make_federation((9,)))
  )
  download = made.broadcast(server, tiny.about(0), COHORT)
  kept = [
    {
      layer
      for layer, values in tree.items()
      if values["kernel"] != optax.MaskedNode()
    }
    for tree in (download.params, client.own.params)
  ]
  assert made.averages and made.global_model is None
  return kept


def test_the_last_layers_stay_with_the_client():
  assert parts() == [{"first", "hidden_1"}, {"last"}]
  assert parts(own_layers=2) == [{"first"}, {"hidden_1", "last"}]


@pytest.mark.slow
def test_all_layers_are_trained_jointly_as_in_fedavg():
  own = toy.play_one_client("fedper").result
  whole = toy.play_one_client("fedavg")
  moved = whole.result.message.params
  sent = own.message.params["first"]
  assert tiny.largest_difference(sent, moved["first"]) < 1e-6
  last = jax.tree.map(jnp.add, whole.download.params, moved)["last"]
  assert tiny.largest_difference(own.client.own.params["last"], last) < 1e-6


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"own_layers": 0}, "fedper.own_layers=0: must be at least 1"),
    ({"own_layers": 4}, "fedper.own_layers=4: must be less than 3"),
    ({"own_layers": 3}, "fedper.own_layers=3: must be less than 3"),
    ({"weighting": "x"}, "fedper.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    parts(**options)
