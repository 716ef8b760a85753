import jax
import optax
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def shared_layers(**options):
  """The layers that travel, of three; the others are the client's own."""
  settings = tiny.make_settings(
    "lg_fedavg", 1, bits=(32,), method_options={"lg_fedavg": options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  made = tiny.make_method(settings, model)
  server, (client,) = jax.eval_shape(
    lambda: toy.begin(made, tiny.make_federation((9,)))
  )
  download = made.broadcast(server, tiny.about(0), COHORT)
  here = [
    {
      layer
      for layer, values in tree.items()
      if values["kernel"] != optax.MaskedNode()
    }
    for tree in (download.params, client.own.params)
  ]
  assert here[1] == {"first", "hidden_1", "last"} - here[0]
  return here[0]


def test_the_last_layers_travel():
  assert shared_layers() == {"last"}
  assert shared_layers(global_layers=2) == {"hidden_1", "last"}
  assert shared_layers(global_layers=3) == {"first", "hidden_1", "last"}


@pytest.mark.slow
def test_with_all_layers_shared_it_is_fedavg():
  own = toy.play_one_client("lg_fedavg", global_layers=2).result
  whole = toy.play_one_client("fedavg").result
  assert tiny.largest_difference(own.message, whole.message) < 1e-6


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"global_layers": 0}, "lg_fedavg.global_layers=0: must be at least 1"),
    ({"global_layers": 4}, "lg_fedavg.global_layers=4: must be at most 3"),
    ({"weighting": "x"}, "lg_fedavg.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    shared_layers(**options)
