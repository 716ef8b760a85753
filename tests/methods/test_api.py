import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import checks
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import messages, trees
from tests import tiny


def message(value):
  return {"w": jnp.full(3, value, jnp.float32), "b": jnp.float32(2 * value)}


def test_the_sum_is_weighted_and_keeps_types():
  low = {"w": jnp.full(3, 1.5, jnp.bfloat16)}
  result = api.weighted_sum(None, low, 4, None, "a")
  assert result.weight == 4.0 and result.weight.dtype == jnp.float32
  assert result.total["w"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(result.total["w"], float), [6.0] * 3)


def test_the_mean_is_over_all_cohorts():
  aggregates = {
    "a": api.weighted_sum(None, message(1.0), 1.0, None, "a"),
    "b": api.weighted_sum(None, message(5.0), 3.0, None, "b"),
  }
  mean = messages.mean_message(aggregates, message(0.0))
  np.testing.assert_allclose(mean["w"], np.full(3, 4.0))
  np.testing.assert_allclose(mean["b"], 8.0)


def test_the_mean_of_nobody_is_zero_whatever_was_sent():
  nothing = api.Aggregate(message(float("nan")), jnp.float32(0))
  mean = messages.mean_message({"a": nothing}, message(1.0))
  np.testing.assert_array_equal(mean["w"], np.zeros(3))
  assert mean["b"] == 0


def test_the_server_moves_only_if_it_heard_somebody():
  def aggregate(weight):
    return api.Aggregate((), jnp.float32(weight))

  for weights, expected in (((0, 0), 1.0), ((0, 2), 5.0)):
    heard = {str(i): aggregate(w) for i, w in enumerate(weights)}
    assert messages.if_heard(heard, jnp.float32(5), jnp.float32(1)) == expected


def test_a_squared_distance_is_over_all_leaves():
  # Three entries of 3, and one of 6.
  assert trees.squared_distance(message(5.0), message(2.0)) == 3 * 9 + 36


def test_clients_weigh_one_or_their_training_samples():
  data = tiny.make_federation((9, 3)).client(jnp.int32(0))
  assert messages.client_weight("uniform", data) == 1.0
  assert messages.client_weight("samples", data) == 9


def test_a_difference_is_new_minus_old():
  difference = trees.difference(message(5.0), message(2.0))
  np.testing.assert_array_equal(difference["w"], np.full(3, 3.0))


@pytest.mark.parametrize(
  ("check", "good", "bad"),
  [
    (checks.unit_interval, (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
    (checks.positive, (1e-9, 5), (0, -1, float("inf"), float("nan"))),
    (checks.not_negative, (0, 5), (-1e-9, float("inf"), float("nan"))),
  ],
)
def test_ranges_name_field_and_value(check, good, bad):
  for value in good:
    check("some.field", value)
  for value in bad:
    with pytest.raises(ValueError, match=f"some.field={value}: must be"):
      check("some.field", value)


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
    entry.make(models, None, training, entry.options())


def test_other_methods_take_cohorts_of_any_architecture():
  shared = qj.create_model("mlp", 3, features=(4,))
  other = qj.create_model("cnn1", 3)
  training = make_training(qj.Settings())
  for name in ("quped", "local"):
    entry = qj.methods.get_method(name)
    models = api.Models(shared, {"small": shared, "images": other})
    made = entry.make(models, None, training, entry.options())
    assert made.primary_variant == "quantized"


def test_a_registered_method_runs_by_its_name(monkeypatch):
  monkeypatch.setattr(qj.methods, "METHODS", dict(qj.methods.METHODS))
  local = qj.methods.get_method("local")
  calls = tiny.Counter(local.make)
  monkeypatch.setitem(qj.methods.METHODS, "placeholder", local)
  qj.register_method("mine", calls, local.options)
  qj.methods.METHODS.pop("placeholder")
  monkeypatch.setitem(tiny.CASES, "mine", tiny.CASES["local"])
  settings = tiny.make_settings("mine", 2, bits=(32,))
  qj.build(settings, federation=tiny.make_federation((9, 9)))
  assert calls.calls == 1
  assert settings.to_dict()["mine"] == {}


def test_an_unknown_method_is_an_error_that_lists_the_known():
  with pytest.raises(
    ValueError, match="method='fedsgd'.*fedavg, .*local, .*quped"
  ):
    qj.methods.get_method("fedsgd")


def test_recalibration_leaves_a_client_of_full_precision_alone():
  """Q is the identity at 32 bits, also in company and with batch norm."""

  class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = nn.Dense(6, name="first")(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.Dense(6, name="hidden")(nn.relu(x))
      return nn.Dense(3, name="last")(x)

  rng = np.random.default_rng(0)
  dataset = qj.from_arrays(
    rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
  )
  parts = qj.partition(dataset, "iid", 2)
  settings = qj.Settings(
    method="local", clients=2, bits=(1, 32), rounds=1, steps=3, batch_size=5
  )
  with tiny.quick_compilation():
    result = qj.run(
      settings,
      federation=qj.make_federation(dataset, parts),
      model=qj.from_linen(Normed(), "normed"),
      display=qj.Display(quiet=True),
    )
  learner = qj.client_state(result.state, 1)
  data = qj.make_federation(dataset, parts).client(jnp.int32(1))
  context = api.Context(0, jax.random.key(0), 1, None, None, None)
  training = make_training(settings)
  model = qj.from_linen(Normed(), "normed")
  _, stats, _ = training.quantized_variant(model, learner, data, context)
  jax.tree.map(np.testing.assert_array_equal, stats, learner.quantized_stats)
  quantized = qj.client_state(result.state, 0)
  data = qj.make_federation(dataset, parts).client(jnp.int32(0))
  _, stats, _ = training.quantized_variant(model, quantized, data, context)
  assert tiny.largest_difference(stats, quantized.quantized_stats) > 1e-3
