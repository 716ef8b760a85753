import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import fedmd
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation()


def start(made, federation, context):
  server = made.init_server(jax.random.key(0), federation.example())
  client = made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )
  return server, client


def play(made, federation, download, client, context):
  """A round of a client without steps on its own data."""
  context = context._replace(num_steps=jnp.int32(0))
  return jax.jit(
    lambda download, client: made.client_update(
      download, client, federation.client(jnp.int32(0)), context, COHORT
    )
  )(download, client)


def test_the_consensus_is_the_mean_of_the_scores(federation):
  made = publics.make_method("fedmd", federation, public_samples=6)
  context = publics.make_context(federation)
  server, _ = start(made, federation, context)
  scores = [
    jax.random.normal(jax.random.key(i), (6, tiny.CLASSES)) for i in (1, 2)
  ]
  sums = [made.receive(server, s, 1.0, context, COHORT) for s in scores]
  total = jax.tree.map(jnp.add, *sums)
  new = made.server_update(server, {COHORT: total}, context)
  np.testing.assert_allclose(new.targets, (scores[0] + scores[1]) / 2)
  np.testing.assert_array_equal(new.rows, server.next_rows)
  assert not np.array_equal(new.next_rows, server.next_rows)
  nobody = jax.tree.map(jnp.zeros_like, total)
  after = made.server_update(new, {COHORT: nobody}, context)
  for x, y in zip(new, after, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mae", "mse", "kl"])
def test_digestion_brings_the_scores_nearer_to_the_consensus(federation, loss):
  made = publics.make_method(
    "fedmd", federation, digest_steps=60, digest_loss=loss, pretrain_steps=0
  )
  context = publics.make_context(federation)
  server, client = start(made, federation, context)
  goal = jax.random.normal(jax.random.key(1), server.targets.shape)
  before = play(made, federation, server, client, context)
  after = play(made, federation, server._replace(targets=goal), client, context)
  # There is nothing to digest in a first round.
  assert (
    tiny.largest_difference(before.client.learner.params, client.learner.params)
    == 0
  )
  distance = fedmd.DIGEST_LOSSES[loss]
  assert distance(after.message, goal) < 0.95 * distance(before.message, goal)


@pytest.mark.slow
def test_clients_learn_the_public_labels_once(federation):
  made = publics.make_method("fedmd", federation, pretrain_steps=60)
  context = publics.make_context(federation)
  server, client = start(made, federation, context)
  first = play(made, federation, server, client, context)
  labels = federation.public.source.labels
  assert np.mean(np.argmax(first.message, axis=1) == labels) > 0.9
  assert bool(first.client.started)
  second = play(made, federation, server, first.client, context)
  difference = tiny.largest_difference(
    first.client.learner.params, second.client.learner.params
  )
  assert difference == 0


@pytest.mark.slow
def test_without_public_steps_clients_train_alone(federation):
  simulation = publics.simulate(
    "fedmd", federation, digest_steps=0, pretrain_steps=0
  )
  own, _ = publics.play(simulation, 2)
  local, _ = publics.play(publics.simulate("local", federation), 2)
  difference = tiny.largest_difference(
    own.clients[COHORT].learner.params, local.clients[COHORT].params
  )
  assert difference < 1e-6


@pytest.mark.slow
def test_late_clients_learn_the_public_labels_when_they_come(federation):
  simulation = publics.simulate(
    "fedmd", federation, settings={"clients_per_round": 1}
  )
  state = simulation.init(0)
  started = []
  for _ in range(6):
    state, _ = simulation.run_round(state)
    started.append(int(np.sum(state.clients[COHORT].started)))
  assert started[0] == 1 and started[-1] > 1


def test_class_scores_of_a_subset_travel(federation):
  simulation = publics.simulate("fedmd", federation, public_samples=7)
  scores, rows = 7 * tiny.CLASSES * 4, 7 * 4
  assert simulation.bytes_up == scores
  assert simulation.bytes_down == scores + 2 * rows


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("fedmd", pretrain_steps=5)


def test_it_needs_labels_and_has_no_global_model(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'fedmd'"):
    publics.make_method("fedmd", None)
  unlabelled = publics.make_federation(labelled=False)
  with pytest.raises(ValueError, match="public_labelled=False: must be True"):
    publics.make_method("fedmd", unlabelled)
  with pytest.raises(ValueError, match="public_samples=31: must be at most"):
    publics.make_method("fedmd", federation, public_samples=31)
  assert publics.make_method("fedmd", federation).global_model is None


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("public_samples", -1, "public_samples=-1: must be at least 0"),
    ("digest_steps", -1, "digest_steps=-1: must be at least 0"),
    ("pretrain_steps", -1, "pretrain_steps=-1: must be at least 0"),
    ("digest_loss", "x", "digest_loss='x': must be one of mae, mse, kl"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedmd.{message}"):
    qj.Settings(method_options={"fedmd": {option: value}})
