import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import random_keys
from tests import tiny
from tests.methods import publics, toy

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


def make(federation, **options):
  model = publics.make_model((5,))
  made = publics.make_method("cronus", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  return made, model, server, publics.make_context(federation)


def outputs(count, seed=0):
  """Soft labels of some clients."""
  logits = 2 * jax.random.normal(
    jax.random.key(seed), (count, publics.SIZE, tiny.CLASSES)
  )
  return jax.nn.softmax(logits)


def targets(made, server, messages, weights, context):
  aggregate = publics.heard(made, server, messages, weights, context)
  update = jax.jit(made.server_update)
  return update(server, {COHORT: aggregate}, context).targets


@pytest.mark.parametrize("average", ["median", "trimmed_mean"])
def test_one_liar_of_ten_leaves_the_average_in_the_honest_range(
  federation, average
):
  made, _, server, context = make(federation, average=average)
  honest = outputs(9)
  lie = jax.nn.one_hot(jnp.argmin(jnp.sum(honest, axis=0), axis=1), 4)
  found = targets(made, server, [*honest, lie], (1.0,) * 10, context)
  np.testing.assert_allclose(np.sum(found, axis=1), 1, rtol=1e-5)
  # Before it was made to add up to 1, each entry was among the honest ones.
  ordered = np.sort(np.concatenate([honest, lie[None]]), axis=0)
  kept = ordered[4:6] if average == "median" else ordered[1:9]
  expected = kept.mean(axis=0)
  assert (expected >= np.min(honest, axis=0)).all()
  assert (expected <= np.max(honest, axis=0)).all()
  expected /= expected.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_mean_is_that_of_unsharpened_soft_labels(federation):
  made, _, server, context = make(
    federation, average="mean", weighting="samples"
  )
  sent = outputs(2)
  found = targets(made, server, list(sent), (3.0, 1.0), context)
  np.testing.assert_allclose(found, (3 * sent[0] + sent[1]) / 4, rtol=1e-5)


def test_who_does_not_count_says_nothing(federation):
  made, _, server, context = make(federation)
  sent = outputs(3)
  found = targets(made, server, list(sent), (1.0, 1.0, 0.0), context)
  both = targets(made, server, list(sent[:2]), (1.0, 1.0), context)
  np.testing.assert_allclose(found, both, rtol=1e-6)
  nobody = targets(made, server, list(sent), (0.0,) * 3, context)
  np.testing.assert_array_equal(nobody, server.targets)


def play_client(name, federation, model, **changes):
  """A client's round: its download and state before it, and its ClientResult.

  Args:
    name: of the method.
    federation: has the public set.
    model: the network.
    changes: to the download.
  """
  made = publics.make_method(name, federation, model=model)
  context = publics.make_context(federation)
  context = context._replace(num_steps=jnp.int32(2))

  @jax.jit
  def play():
    key, example = jax.random.key(0), federation.example()
    server = made.init_server(key, example)
    start = made.init_client(
      key, example, server, context.client_id, context.spec, COHORT
    )
    download = made.broadcast(server, context, COHORT)
    if changes:
      download = download._replace(**changes)
    data = federation.client(context.client_id)
    return start, made.client_update(download, start, data, context, COHORT)

  return play()


@pytest.mark.slow
def test_a_step_learns_own_labels_and_public_targets_together(federation):
  context = publics.make_context(federation)
  soft = outputs(1)[0]
  model = publics.make_model((5,))
  start, plain = play_client("cronus", federation, model)
  _, taught = play_client("cronus", federation, model, targets=soft)
  steps = tiny.make_settings("cronus", 1).steps
  data, public = federation.client(0), federation.public.data()
  draw_key, _ = jax.random.split(context.key)
  key = jax.random.fold_in(context.key, random_keys.PUBLIC_DISTILLATION)
  own = data.draw(draw_key, steps, tiny.BATCH)
  other = public.draw(key, steps, tiny.BATCH)

  def loss(params, batch, weight=1.0):
    batch, inputs, soft = batch
    labels = toy.hand_labels(
      toy.hand_forward(params, batch.inputs), batch.labels
    )
    said = toy.hand_softmax(toy.hand_forward(params, inputs))
    return labels - weight * jnp.mean(jnp.sum(soft * jnp.log(said), axis=1))

  batches = [
    (data.batch(a), public.batch(b).inputs, soft[b])
    for a, b in zip(own[:2], other[:2], strict=True)
  ]
  for result, weight in ((taught, 1.0), (plain, 0.0)):
    expected = toy.descend(
      start.params, functools.partial(loss, weight=weight), batches
    )
    assert tiny.largest_difference(result.client.params, expected) < 1e-5
  assert tiny.largest_difference(taught.client.params, start.params) > 1e-2


@pytest.mark.slow
def test_statistics_are_of_own_samples_until_there_are_targets(federation):
  model = qj.create_model("normed", tiny.CLASSES)
  first, second = (
    play_client(name, federation, model)[1].client
    for name in ("cronus", "local")
  )
  assert tiny.largest_difference(first, second) < 1e-6


def test_outputs_travel_and_nothing_else(federation):
  simulation = publics.simulate("cronus", federation, public_samples=7)
  floats, rows = 7 * tiny.CLASSES * 4, 7 * 4
  assert simulation.bytes_up == floats
  assert simulation.bytes_down == floats + 2 * rows
  assert simulation.gradients == 2 * 5


def test_outputs_that_are_no_probabilities_are_not_believed(federation):
  made, *_ = make(federation)
  (fine,) = outputs(1)
  assert bool(made.plausible(fine, 5))
  assert not bool(made.plausible(2 * fine, 5))
  assert not bool(made.plausible(fine.at[0].add(jnp.array([-1, 1, 0, 0])), 5))


def test_it_needs_a_public_set_of_the_samples_of_a_round(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'cronus'"):
    publics.make_method("cronus", None)
  with pytest.raises(ValueError, match="public_samples=31: must be at most"):
    publics.make_method("cronus", federation, public_samples=31)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("public_samples", -1, "public_samples=-1: must be at least 0"),
    ("average", "x", "average='x': must be one of median, trimmed_mean, mean"),
    ("trim", 0.5, "trim=0.5: must be at least 0 and less than 0.5"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"cronus.{message}"):
    qj.Settings(method_options={"cronus": {option: value}})
