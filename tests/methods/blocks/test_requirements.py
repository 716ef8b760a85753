import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api


@pytest.mark.parametrize("name", ["fedavg", "qupel"])
def test_methods_that_average_weights_need_one_architecture(name):
  shared = qj.create_model("mlp", 3, features=(4,))
  other = qj.create_model("cnn1", 3)
  training = make_training(qj.Settings())
  entry = qj.methods.get_method(name)
  models = api.Models(shared, {"small": shared, "images": other})
  with pytest.raises(
    ValueError, match="client_types: .*one network.*small, images"
  ):
    entry.build(models, training, entry.options(), None)


def test_other_methods_take_cohorts_of_any_architecture():
  shared = qj.create_model("mlp", 3, features=(4,))
  other = qj.create_model("cnn1", 3)
  training = make_training(qj.Settings())
  for name in ("quped", "local"):
    entry = qj.methods.get_method(name)
    models = api.Models(shared, {"small": shared, "images": other})
    made = entry.build(models, training, entry.options(), None)
    assert made.primary_variant == "quantized"


@pytest.mark.parametrize("name", ["fedftg", "fedzkt"])
def test_inputs_are_generated_for_networks_that_follow_them(name):
  settings = qj.Settings(
    method=name, dataset="own_source", model="transformer", bits=(32,)
  )
  with pytest.raises(ValueError, match="model='transformer': .*not of tokens"):
    qj.build(settings)
