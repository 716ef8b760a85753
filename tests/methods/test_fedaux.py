import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import quped_jax as qj
from quped_jax.methods import fedaux
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT
# Of 30 public samples, 6 are held back.
DISTILLED = 24


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


def make(federation, **options):
  model = publics.make_model((5,))
  made = publics.make_method("fedaux", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  return made, model, server, publics.make_context(federation)


def test_a_fifth_of_the_public_set_is_held_back(federation):
  rows, held = fedaux.divide(federation.public, 0.2)
  np.testing.assert_array_equal(held, [0, 5, 10, 15, 20, 25])
  assert sorted([*rows, *held]) == list(range(publics.SIZE))
  rows, held = fedaux.divide(federation.public, 0.95)
  assert (len(rows), len(held)) == (1, 29)
  for share in (0.98, 0.999):
    with pytest.raises(ValueError, match="must leave samples of public_size=3"):
      fedaux.divide(federation.public, share)


@functools.cache
def played():
  """The first round of a client of 23 samples, and one of another key."""
  federation: Any = publics.make_federation(labelled=False)
  made, model, server, context = make(federation)
  start = made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )

  @jax.jit
  def play(server, client, key):
    return made.client_update(
      made.broadcast(server, context, COHORT),
      client,
      federation.client(0),
      context._replace(key=key),
      COHORT,
    )

  first = play(server, start, jax.random.key(1))
  moved = jax.tree.map(lambda x: 0.5 * x, server)
  second = play(moved, first.client, jax.random.key(2))
  return federation, model, server, first, second


@pytest.mark.slow
def test_scores_are_those_of_a_logistic_regression_on_features():
  federation, model, server, first, _ = played()
  shared = server.models[COHORT]

  divide: Any = model.features

  def features(data, count):
    inputs = data.batch(jnp.arange(count)).inputs
    return np.asarray(divide(shared.params, {}, inputs, False)[0])

  rows, held = fedaux.divide(federation.public, 0.2)
  own = features(federation.client(0), 23)
  public = features(federation.public.data(), publics.SIZE)
  z = np.concatenate([own, public[held]])
  largest = np.linalg.norm(z, axis=1).max()
  known = LogisticRegression(C=1 / (len(z) * 0.01), tol=1e-8, max_iter=10000)
  known.fit(z / largest, np.arange(len(z)) < len(own))
  expected = known.predict_proba(public[rows] / largest)[:, 1]
  np.testing.assert_allclose(first.message.scores, expected, atol=1e-3)
  assert np.ptp(expected) > 0.02


def test_scores_are_computed_once():
  *_, first, second = played()
  np.testing.assert_array_equal(first.message.scores, second.message.scores)
  assert bool(first.client.started)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("scores", "same"), [((0.5, 0.5), True), ((0.9, 0.1), False)]
)
def test_certain_clients_teach_more(federation, scores, same):
  """With equal scores the teacher is FedDF's, on the samples distilled."""
  made, model, server, context = make(federation)
  other = publics.make_method("feddf", federation, model=model)
  rows, _ = fedaux.divide(federation.public, 0.2)
  models = [publics.random_like(server.models[COHORT], i) for i in (1, 2)]
  given = [
    fedaux.FedauxMessage(m, jnp.full(DISTILLED, s))
    for m, s in zip(models, scores, strict=True)
  ]
  said, weights = publics.heard(
    made, server, given, (3.0, 1.0), context
  ).total.said
  teacher = said / weights[:, None]
  logits = [
    publics.logits_of(
      federation, model, jax.tree.map(jnp.add, server.models[COHORT], m)
    )[rows]
    for m in models
  ]
  np.testing.assert_allclose(
    teacher, scores[0] * logits[0] + scores[1] * logits[1], atol=1e-5
  )
  plain = publics.heard(other, server, models, (3.0, 1.0), context).total
  feddf = np.asarray(plain.said / plain.count)[rows]
  assert np.allclose(teacher, feddf, atol=1e-5) == same


def test_scores_that_are_no_probabilities_are_not_believed(federation):
  made, _, server, _ = make(federation)
  message = fedaux.FedauxMessage(
    server.models[COHORT], jnp.full(DISTILLED, 0.5)
  )
  for value, fine in ((1.0, True), (1.1, False), (-0.1, False)):
    given = message._replace(scores=message.scores.at[3].set(value))
    assert bool(made.plausible(given, 23).scores) == fine


def test_a_certainty_per_public_sample_goes_up(federation):
  simulation = publics.simulate("fedaux", federation)
  fedavg = publics.simulate("fedavg", federation)
  assert simulation.bytes_up == fedavg.bytes_up + 4 * DISTILLED
  assert simulation.bytes_down == fedavg.bytes_down


def test_it_needs_a_public_set_and_features(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'fedaux'"):
    publics.make_method("fedaux", None)
  whole = publics.make_model()._replace(features=None)
  with pytest.raises(ValueError, match="model='mlp': must have `features`"):
    publics.make_method("fedaux", federation, model=whole)
  small = publics.make_federation(size=1)
  with pytest.raises(ValueError, match="held_back=0.2: .*public_size=1"):
    publics.make_method("fedaux", small)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("distill_steps", -1, "distill_steps=-1: must be at least 0"),
    ("held_back", 0.0, "held_back=0.0: must be between 0 and 1"),
    ("held_back", 1.0, "held_back=1.0: must be between 0 and 1"),
    ("penalty", 0.0, "penalty=0.0: must be positive"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedaux.{message}"):
    qj.Settings(method_options={"fedaux": {option: value}})
