"""The second step of assembly: networks, and each client's properties."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import chances
from quped_jax.experiment.build_clients import (
  build_clients,
  build_population,
  check_networks,
  describe,
)
from tests import tiny

FEDERATION = tiny.make_federation(tiny.COUNTS)


def settings(**changes):
  values = {"clients": 5, "model": "mlp", "hidden": (8, 8), "steps": 4}
  return qj.Settings(**{**values, **changes})


def test_clients_of_one_network_are_the_cohort_of_clients():
  clients = build_clients(settings(bits=(1, 32)), FEDERATION)
  assert list(clients.models.clients) == ["clients"]
  assert clients.model is clients.models.shared
  assert clients.assignment.bits.tolist() == [1, 32, 1, 32, 1]


def test_clients_of_several_networks_are_cohorts_by_their_names():
  clients = build_clients(
    settings(client_types="2*mlp(8,8)@1, 3*mlp(4,4)@32"), FEDERATION
  )
  assert list(clients.models.clients) == ["mlp(8,8)", "mlp(4,4)"]
  # The cohort of full precision quantizes nothing.
  quantized, full = clients.models.clients.values()
  assert quantized.is_quantized("hidden_1/kernel")
  assert not full.is_quantized("hidden_1/kernel")


PICTURES = qj.from_arrays(np.ones((40, 8, 8, 1)), np.arange(40) % 4)
IMAGES = qj.make_federation(PICTURES, qj.partition(PICTURES, "iid", 5))


@pytest.mark.parametrize(
  ("changes", "widths"),
  [
    ({"model": "cnn1", "hidden": (2, 3, 4)}, {"clients": (2, 3, 4)}),
    ({"model": "cnn1", "hidden": (2, 3)}, {"clients": (2, 3)}),
    (
      {"client_types": "2*cnn1(2,3,4,5)@1, 3*cnn2(1,2,3,4,5)@32"},
      {"cnn1(2,3,4,5)": (2, 3, 4, 5), "cnn2(1,2,3,4,5)": (1, 2, 3, 4, 5)},
    ),
    (
      {"budget_bytes": (10**6,), "candidates": "cnn1(2,3,4), cnn1(1,2,3)"},
      {"clients": (2, 3, 4)},
    ),
  ],
)
def test_widths_of_a_cnn_are_those_of_its_layers_in_order(changes, widths):
  found = build_clients(settings(**changes), IMAGES).models.clients
  shapes = {
    name: jax.eval_shape(x.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))[0]
    for name, x in found.items()
  }
  assert {
    name: tuple(
      params[layer]["kernel"].shape[-1] for layer in layers_of(params)
    )
    for name, params in shapes.items()
  } == widths


def layers_of(params):
  """The names of hidden layers, in forward order."""
  return ["first", *(f"hidden_{i}" for i in range(1, len(params) - 1))]


def test_a_global_cnn_has_widths_of_its_own():
  given = settings(shared_model="cnn1", shared_hidden=(2, 3, 4))
  shared = build_clients(given, IMAGES).models.shared
  params, _ = shared.init(jax.random.key(0), np.zeros((1, 8, 8, 1)))
  assert params["hidden_2"]["kernel"].shape == (2 * 2 * 3, 4)


LARGER = qj.from_arrays(np.ones((40, 16, 16, 1)), np.arange(40) % 4)
LARGER_IMAGES = qj.make_federation(LARGER, qj.partition(LARGER, "iid", 5))


def test_in_a_mixture_padding_is_that_of_the_cnns():
  given = settings(client_types="2*cnn1(2,3,4)@1, 3*mlp(4,4)@32")
  for padding, size, more in (
    ("same", 4, {}),
    ("valid", 1, {"padding": "valid"}),
  ):
    made = dataclasses.replace(given, padding=padding)
    cnn, mlp = (describe(made, LARGER_IMAGES, x) for x in made.networks())
    params, _ = cnn.create().init(jax.random.key(0), np.zeros((1, 16, 16, 1)))
    assert params["hidden_2"]["kernel"].shape == (size * size * 3, 4)
    widths = {"conv_features": (2, 3), "dense_features": (4,)}
    assert cnn.options == {**widths, **more}
    assert mlp.options == {"features": (4, 4)}


def test_padding_may_be_that_of_the_global_network_alone():
  given = settings(
    shared_model="cnn1", shared_hidden=(2, 3, 4), padding="valid"
  )
  shared = build_clients(given, LARGER_IMAGES).models.shared
  params, _ = shared.init(jax.random.key(0), np.zeros((1, 16, 16, 1)))
  assert params["hidden_2"]["kernel"].shape == (3, 4)


@pytest.mark.parametrize(
  ("changes", "model", "message"),
  [
    ({}, None, r"must be 'same' with mlp\(8,8\); only cnn1 and cnn2 take ano"),
    (
      {"model": "resnet8", "hidden": (), "shared_model": "mlp"},
      None,
      r"must be 'same' with resnet8, mlp\(64,64\); only cnn1 and cnn2",
    ),
    ({}, qj.create_model("cnn1", 4), "must be 'same' with a given model"),
    (
      {"model": "cnn1", "hidden": ()},
      None,
      "must be 'same' for images of 8 x 8; .* 16 x 16 at least",
    ),
  ],
)
def test_padding_that_no_network_has_is_an_error(changes, model, message):
  given = settings(padding="valid", **changes)
  with pytest.raises(ValueError, match=f"padding='valid': {message}"):
    build_clients(given, IMAGES, model)


def test_a_given_model_is_that_of_all_clients():
  model = qj.create_model("mlp", tiny.CLASSES, features=(4, 4))
  clients = build_clients(settings(), FEDERATION, model)
  assert clients.models.clients == {"clients": model}
  assert clients.models.shared is model


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"client_types": "5*nope@1"}, "client_types='nope': must be one of"),
    (
      {"client_types": "5*cnn1(8)@1"},
      r"client_types='cnn1\(8\)': must have at least 2 widths with the netw",
    ),
    (
      {"candidates": "cnn2(8,8,8)", "budget_bytes": (9,)},
      r"candidates='cnn2\(8,8,8\)': must have at least 4 widths with the n",
    ),
    (
      {"client_types": "5*resnet8(8)@1"},
      r"client_types='resnet8\(8\)': must have no widths with the network .re"
      "snet8'; only mlp, cnn1, cnn2 take them",
    ),
  ],
)
def test_an_unknown_network_is_an_error_before_there_are_data(changes, message):
  with pytest.raises(ValueError, match=message):
    check_networks(settings(**changes))


def test_client_types_do_not_go_with_a_given_model():
  model = qj.create_model("mlp", tiny.CLASSES)
  with pytest.raises(ValueError, match="client_types: must not be set with a"):
    check_networks(settings(client_types="5*mlp@1"), model)


def test_quantized_clients_need_something_to_quantize():
  with pytest.raises(ValueError, match=r"bits=\(1,\): must be 32 for a model"):
    build_clients(settings(hidden=(8,), bits=(1,)), FEDERATION)


class Plain(nn.Module):
  """With the names that flax gives its layers."""

  conv: bool = False

  @nn.compact
  def __call__(self, x):
    if self.conv:
      x = nn.Conv(2, (1,))(x[..., None])
    x = x.reshape(x.shape[0], -1)
    for _ in range(2):
      x = nn.relu(nn.Dense(4)(x))
    return nn.Dense(tiny.CLASSES)(x)


def test_the_first_and_the_last_layer_of_any_network_stay_as_they_are():
  for clients in (
    build_clients(settings(), FEDERATION, qj.from_linen(Plain(), "plain")),
    build_clients(settings(model="test_plain", hidden=()), FEDERATION),
  ):
    paths = [f"Dense_{i}/kernel" for i in range(3)]
    assert list(filter(clients.model.is_quantized, paths)) == ["Dense_1/kernel"]
    assert clients.model is clients.models.shared


qj.register_model(
  "test_plain", lambda classes, **_: qj.from_linen(Plain(), "plain")
)


def test_a_plain_convolution_is_warned_of_with_the_line_that_mends_it():
  model = qj.from_linen(Plain(conv=True), "plain")
  line = r'conv_general_dilated=qj.models.resolve_conv\("auto"\)'
  with pytest.warns(UserWarning, match=f"'Conv_0/kernel'.*{line}"):
    build_clients(settings(), FEDERATION, model)


def test_clients_bring_their_precision_and_its_step_sizes():
  given = settings(
    clients=3, held_out_clients=2, bits=(1, 32), learning_rate=(0.1, 0.2)
  )
  population = build_population(given)
  assert np.asarray(population.spec.bits).tolist() == [1, 32, 1, 32, 1]
  np.testing.assert_allclose(
    population.rates.learning_rate, [0.1, 0.2, 0.1, 0.2, 0.1]
  )
  np.testing.assert_allclose(population.rates.strength, given.strength)


def test_chances_are_given_to_the_clients_that_train_in_turn():
  given = settings(participation=(0.5, 1.0), stragglers=0.25)
  participation = build_population(given).participation
  assert participation.probability is not None
  np.testing.assert_array_equal(
    chances.values(participation.probability), [0.5, 1.0, 0.5, 1.0, 0.5]
  )
  assert participation.stragglers is not None
  assert chances.values(participation.stragglers) == 0.25
  assert participation.dropout is None and participation.count is None
  assert participation.steps == 4
  everyone = build_population(dataclasses.replace(given, participation=()))
  assert everyone.participation.probability is None


def test_images_with_channels_first_are_named_where_a_network_takes_images():
  rng = np.random.default_rng(0)
  inputs, labels = rng.normal(size=(40, 3, 16, 16)), np.arange(40) % 4
  data = qj.from_arrays(inputs, labels, channels="last")
  federation = qj.make_federation(data, qj.partition(data, "iid", 5))
  with pytest.warns(UserWarning, match="3 x 16 pixels with 16 channels"):
    build_clients(settings(model="resnet8", bits=(32,), hidden=()), federation)
  build_clients(settings(), federation)
