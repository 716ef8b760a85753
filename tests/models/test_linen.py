from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import models
from quped_jax.data.federation import Batch


class _Counting(nn.Module):
  """Keeps a collection that a model cannot carry."""

  @nn.compact
  def __call__(self, inputs):
    self.variable("counters", "calls", jnp.zeros, ())
    return nn.Dense(2)(inputs)


class _Normalised(nn.Module):
  @nn.compact
  def __call__(self, inputs, train):
    outputs = nn.BatchNorm(use_running_average=not train, momentum=0.9)(inputs)
    return nn.Dense(2, name="last")(outputs)


def test_from_linen_without_train_or_stats():
  module = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
  model = models.from_linen(module, "mine")
  inputs = jnp.ones((4, 5))
  params, stats = model.init(jax.random.key(0), inputs)
  assert model.name == "mine"
  assert stats == {}
  expected = module.apply({"params": params}, inputs)
  for train in (False, True):
    logits, new_stats = model.apply(params, stats, inputs, train)
    np.testing.assert_array_equal(logits, expected)
    assert new_stats == {}


def test_from_linen_moves_statistics_in_training_only():
  model = models.from_linen(_Normalised(), "mine")
  inputs = jnp.arange(6.0).reshape(3, 2)
  params, stats = model.init(jax.random.key(0), inputs)
  _, in_eval = model.apply(params, stats, inputs, False)
  jax.tree.map(np.testing.assert_array_equal, in_eval, stats)
  logits, in_train = model.apply(params, stats, inputs, True)
  np.testing.assert_allclose(
    in_train["BatchNorm_0"]["mean"], 0.1 * inputs.mean(axis=0), rtol=1e-6
  )
  # The batch's own statistics normalise, so shift and scale have no effect.
  moved, _ = model.apply(params, stats, 5 * inputs + 3, True)
  np.testing.assert_allclose(logits, moved, atol=1e-4)


def test_from_linen_initialises_like_the_module():
  module = _Normalised()
  inputs = jnp.ones((3, 2))
  params, stats = models.from_linen(module, "mine").init(
    jax.random.key(3), inputs
  )
  expected = module.init(jax.random.key(3), inputs, train=False)
  for actual, name in ((params, "params"), (stats, "batch_stats")):
    jax.tree.map(
      lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6),
      actual,
      expected[name],
    )


def test_from_linen_uses_the_predicate():
  model = models.from_linen(nn.Dense(2), "mine", lambda path: path == "bias")
  assert model.is_quantized("bias")
  assert not model.is_quantized("kernel")


def test_from_linen_refuses_other_collections():
  model = models.from_linen(_Counting(), "mine")
  with pytest.raises(ValueError, match=r"'mine' keeps \['counters'\]"):
    model.init(jax.random.key(0), jnp.ones((1, 2)))


@pytest.mark.parametrize(
  "name", ["mlp", "cnn1", pytest.param("resnet8", marks=pytest.mark.slow)]
)
def test_features_and_head_make_the_logits(name):
  model = qj.create_model(name, 3, image_channels=1)
  inputs = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  params, stats = model.init(jax.random.key(1), inputs)
  logits, new_stats = model.apply(params, stats, inputs, True)
  assert model.features is not None and model.head is not None
  features, same_stats = model.features(params, stats, inputs, True)
  assert features.ndim == 2
  np.testing.assert_allclose(model.head(params, features), logits, rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(new_stats), jax.tree.leaves(same_stats), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_a_model_without_a_last_layer_has_no_features():
  class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, name="only")(x)

  model = qj.from_linen(Flat(), "flat")
  params, stats = model.init(jax.random.key(0), jnp.ones((1, 2)))
  assert model.features is not None
  with pytest.raises(
    ValueError, match="model='flat': must have a layer 'last'"
  ):
    model.features(params, stats, jnp.ones((1, 2)), True)


class _Told(nn.Module):
  """Told whether it trains by an argument with any name."""

  normalise: bool = True

  def body(self, inputs, average):
    outputs = nn.Dense(3, name="first")(inputs)
    if self.normalise:
      outputs = nn.BatchNorm(average, momentum=0.5)(outputs)
    return nn.Dense(2, name="last")(outputs)


def told_by(name: str, how: str) -> nn.Module:
  """A network with batch norm that is told by an argument or a field."""
  negated = name in ("deterministic", "use_running_average")
  average = name if negated else f"not {name}"
  where: dict = {"nn": nn, "_Told": _Told}
  if how == "field":
    source = (
      f"class Net(_Told):\n"
      f"  {name}: bool = {negated}\n"
      f"  @nn.compact\n"
      f"  def __call__(self, x):\n"
      f"    return self.body(x, {average.replace(name, 'self.' + name)})\n"
    )
  else:
    source = (
      f"class Net(_Told):\n"
      f"  @nn.compact\n"
      f"  def __call__(self, x, {name}={negated}):\n"
      f"    return self.body(x, {average})\n"
    )
  exec(source, where)
  return where["Net"]()


@pytest.mark.parametrize("how", ["argument", "field"])
@pytest.mark.parametrize(
  "name",
  ["train", "training", "is_training", "deterministic", "use_running_average"],
)
def test_from_linen_tells_a_network_whether_it_trains(name, how):
  model = models.from_linen(told_by(name, how), "mine")
  inputs = jnp.arange(6.0).reshape(3, 2)
  params, stats = model.init(jax.random.key(0), inputs)
  _, moved = model.apply(params, stats, inputs, True)
  outputs = inputs @ params["first"]["kernel"] + params["first"]["bias"]
  np.testing.assert_allclose(
    moved["BatchNorm_0"]["mean"], 0.5 * outputs.mean(axis=0), rtol=1e-5
  )
  _, kept = model.apply(params, moved, inputs, False)
  jax.tree.map(np.testing.assert_array_equal, kept, moved)


def test_from_linen_refuses_batch_statistics_that_would_never_see_a_batch():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, inputs, norm=True):
      return nn.Dense(2)(nn.BatchNorm(use_running_average=norm)(inputs))

  model = models.from_linen(Net(), "mine")
  with pytest.raises(ValueError, match="argument or a field called one of"):
    model.init(jax.random.key(0), jnp.ones((3, 2)))


class Dropping(nn.Module):
  """Drops some of its inputs, each of which a weight passes on as it is."""

  always: bool = False

  @nn.compact
  def __call__(self, inputs, deterministic=True):
    off = deterministic and not self.always
    x = nn.Dropout(0.5, deterministic=off)(inputs)
    x = nn.Dropout(0.5, rng_collection="noise", deterministic=off)(x)
    return nn.Dense(64, name="last", kernel_init=nn.initializers.ones)(x)


def batch_of(key):
  return Batch(jnp.ones((3, 64)), jnp.zeros(3, jnp.int32), key)


def test_a_module_that_drops_out_is_given_a_key_under_any_name():
  model = models.from_linen(Dropping(), "mine")
  batch = batch_of(jax.random.key(1))
  params, stats = model.init(jax.random.key(0), batch.inputs)
  eye = {"last": {**params["last"], "kernel": jnp.eye(64)}}
  with pytest.raises(ValueError, match="key=None: must be .* model 'mine'"):
    models.training_pass(model, eye, stats, batch)
  model = model._replace(random=True)
  with pytest.raises(ValueError, match="batch.key=None: must be .* 'mine'"):
    models.training_pass(model, eye, stats, batch_of(None))

  def kept(key, params=eye):
    return models.training_pass(model, params, stats, batch_of(key))[0] != 0

  first = kept(batch.key)
  # Two layers drop half each, by themselves.
  assert 0.1 < jnp.mean(first) < 0.4
  assert {4.0, 0.0} == set(
    np.unique(models.training_pass(model, eye, stats, batch)[0]).tolist()
  )
  # Other weights of the same step see the same units.
  doubled = jax.tree.map(lambda x: 2 * x, eye)
  np.testing.assert_array_equal(kept(batch.key, doubled), first)
  assert (kept(jax.random.key(2)) != first).any()
  told, _ = model.apply(eye, stats, batch.inputs, False)
  np.testing.assert_array_equal(told, batch.inputs)


def test_the_inputs_of_the_last_layer_are_those_that_were_not_dropped():
  model = models.from_linen(Dropping(), "mine")
  inputs, key = jnp.ones((3, 64)), jax.random.key(1)
  params, stats = model.init(jax.random.key(0), inputs)
  assert model.features is not None and model.head is not None
  found, _ = model.features(params, stats, inputs, True, key)
  logits, _ = model.apply(params, stats, inputs, True, key)
  assert (found == 0).any()
  np.testing.assert_allclose(model.head(params, found), logits, rtol=1e-6)


def test_a_module_must_not_drop_out_where_it_is_not_trained():
  model = models.from_linen(Dropping(True), "mine")
  inputs = jnp.ones((3, 64))
  params, stats = model.init(jax.random.key(0), inputs)
  with pytest.raises(
    ValueError, match="in training alone; that of model 'mine'"
  ):
    model.apply(params, stats, inputs, False)


class _Scanned(nn.Module):
  """Adds noise in two steps, each of which has a key of its own, or none."""

  split: bool

  @nn.compact
  def __call__(self, inputs, train):
    def layer(module, carry, _):
      shape = carry.shape
      if not train:
        return carry, jnp.zeros(shape)
      noise = jax.random.normal(module.make_rng("noise"), shape)
      return carry, noise

    keys: Any = {"noise": True} if self.split else {}
    run = nn.scan(layer, split_rngs=keys, length=2)
    return run(self, inputs, None)[1]


def test_layers_that_are_scanned_draw_numbers_of_their_own():
  inputs, key = jnp.ones((3, 2)), jax.random.key(1)
  first, second = models.from_linen(_Scanned(True), "mine").apply(
    {}, {}, inputs, True, key
  )[0]
  assert (first != second).all()
  alone = models.from_linen(_Scanned(False), "mine")
  with pytest.raises(ValueError, match='by split_rngs, .*for "noise"'):
    alone.apply({}, {}, inputs, True, key)


def test_a_network_without_dropout_computes_as_if_there_were_no_keys():
  model = models.from_linen(models.MLP(2, (3,)), "mine")
  batch = Batch(jnp.ones((3, 2)), jnp.zeros(3, int), jax.random.key(0))
  params, stats = model.init(jax.random.key(0), batch.inputs)

  def text(fn):
    return str(jax.make_jaxpr(fn)(params, batch.inputs, batch.key))

  def with_key(params, inputs, key):
    own = batch._replace(inputs=inputs, key=key)
    return models.training_pass(model, params, stats, own)

  expected = text(lambda params, x, key: model.apply(params, stats, x, True))
  assert text(with_key) == expected
  assert models.pass_keys(model, batch.key, 3) is None


def test_from_linen_leaves_a_field_alone_that_is_told_otherwise():
  class Merged(nn.Module):
    """As flax has it: a field or an argument, never both."""

    use_running_average: bool | None = None
    training: str = "a plan"  # Something else of this name.

    @nn.compact
    def __call__(self, x, use_running_average=None):
      average = nn.merge_param(
        "use_running_average", self.use_running_average, use_running_average
      )
      assert self.training == "a plan"
      return nn.Dense(2, name="last")(nn.BatchNorm(average)(x))

  model = models.from_linen(Merged(), "mine")
  inputs = jnp.arange(6.0).reshape(3, 2)
  params, stats = model.init(jax.random.key(0), inputs)
  _, moved = model.apply(params, stats, inputs, True)
  assert not np.array_equal(
    moved["BatchNorm_0"]["mean"], stats["BatchNorm_0"]["mean"]
  )


class _ToldByAnotherName(nn.Module):
  @nn.compact
  def __call__(self, inputs, is_train=False):
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not is_train)(inputs))


def test_a_module_that_is_told_by_a_name_nobody_knows_is_warned_of():
  with pytest.warns(UserWarning, match="'is_train', which is left as it is"):
    models.from_linen(_ToldByAnotherName(), "net")
