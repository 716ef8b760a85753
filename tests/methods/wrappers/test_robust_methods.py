"""Methods that take more than the mean take robust averages of their own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods.wrappers import robust
from tests import tiny
from tests.methods import toy
from tests.methods.wrappers.slots import COHORT, by_hand, hear

AVERAGING = {
  "apfl", "ditto", "fedala", "fedavg", "fedavg_ft", "fedbabu", "fedbn",
  "fedcad", "feddbe", "fedgkd", "fedgkd_vote", "fedkd", "fedmlb", "fedntd",
  "fedper", "fedprox", "fedprox_ft", "fedrep", "fedrod", "fedssd", "fml",
  "lg_fedavg", "moon", "per_fedavg", "pfedme", "quped", "qupel",
}  # fmt: skip


# Methods whose server does more than to average, and yet takes a median.
ROBUST = (
  "cfd", "ds_fl", "feddf", "feddyn", "fedmd", "scaffold", "scaffold_ft",
)  # fmt: skip


@pytest.mark.parametrize("name", tiny.METHODS)
def test_a_method_whose_server_takes_more_than_the_mean_says_so(name):
  method = tiny.method_of(name)

  def check():
    robust.check_averages(method, name, "aggregation='median'", "'mean'")

  if name in AVERAGING:
    return check()
  with pytest.raises(ValueError) as error:
    check()
  assert str(error.value).startswith(
    f"aggregation='median': must be 'mean' with method={name!r}"
  )


@pytest.mark.parametrize("name", tiny.METHODS)
def test_who_can_take_a_median_is_in_these_tables(name):
  method = tiny.method_of(name)
  robust.check_robust(method, name, "mean")
  for aggregation in ("median", "trimmed_mean", "norm_clipped_mean"):
    ranks = aggregation != "norm_clipped_mean"
    if name in AVERAGING or (name in ROBUST and ranks):
      robust.check_robust(method, name, aggregation)
    else:
      field = f"^aggregation='{aggregation}': must be .*mean.*'{name}'"
      with pytest.raises(ValueError, match=field):
        robust.check_robust(method, name, aggregation)


def after_messages(name, sent, changes=(), slots=5):
  """The server before and after a round, with the median of some messages.

  Args:
    name: of the method.
    sent: `(server, context) -> messages`, of all slots; they do not all count.
    changes: to the method's settings.
    slots: their number; the second one is empty.
  """
  settings = tiny.make_settings(name, 5, bits=(32,))
  options = {**settings.method_options[name], **dict(changes)}
  settings = tiny.make_settings(name, 5, method_options={name: options})
  federation = tiny.make_federation()
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  method = tiny.make_method(settings, model, federation)
  method = robust.with_aggregation(method, "median")
  server = method.init_server(jax.random.key(0), federation.example())
  context = toy.at_server()._replace(public=federation.public)
  heard = hear(sent(server), jnp.arange(slots) != 1, slots)
  new = jax.jit(method.server_update)(server, {COHORT: heard}, context)
  return server, new


def like(tree, slots=5, seed=0):
  """Random messages in slots, each like a tree."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(size=(slots, *x.shape)).astype(np.float32), tree
  )


def median_of(messages):
  """Over all slots but the empty one."""
  return jax.tree.map(
    lambda x: by_hand(np.delete(x, 1, axis=0), None), messages
  )


def test_scaffold_takes_the_median_of_models_and_of_controls():
  sent: Any = None

  def send(server):
    nonlocal sent
    sent = like(server)
    return sent

  server, new = after_messages("scaffold", send)
  center = median_of(sent)
  # Four of five clients took part.
  expected = jax.tree.map(
    lambda s, m, share: s + share * m,
    server,
    center,
    type(server)(
      model=jax.tree.map(lambda _: 1.0, server.model),
      control=jax.tree.map(lambda _: 4 / 5, server.control),
    ),
  )
  assert tiny.largest_difference(new, expected) < 1e-5


def test_feddyn_takes_the_median_of_models():
  """As the mean of those who took part, and of moves as often as these."""
  sent: Any = None

  def send(server):
    nonlocal sent
    sent = like(server.model)
    return sent

  server, new = after_messages("feddyn", send)
  center = median_of(sent).params
  moves = jax.tree.map(lambda m: 4 / 5 * m, center)
  assert tiny.largest_difference(new.moves, moves) < 1e-5
  expected = jax.tree.map(
    lambda w, m, h: w + m + h, server.model.params, center, moves
  )
  assert tiny.largest_difference(new.model.params, expected) < 1e-5


def test_fedmd_takes_the_median_of_scores():
  scores = like(np.zeros((tiny.PUBLIC, tiny.CLASSES)))
  _, new = after_messages("fedmd", lambda server: scores)
  np.testing.assert_allclose(new.targets, median_of(scores), rtol=1e-5)


def test_ds_fl_sharpens_the_median_of_soft_labels():
  scores = like(np.zeros((tiny.PUBLIC, tiny.CLASSES)))
  soft = np.asarray(jax.nn.softmax(scores))
  _, new = after_messages(
    "ds_fl", lambda server: soft, {"temperature": 0.5, "distill_steps": 1}
  )
  center = median_of(soft)
  center = center / center.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    new.download.targets, jax.nn.softmax(center / 0.5), rtol=1e-5
  )


def test_soft_labels_that_nobody_agrees_on_say_nothing():
  """The median of one-hot labels of four classes is zero for each."""
  one_hot = np.eye(4, dtype=np.float32)[np.array([0, 0, 1, 2, 3])]
  soft = np.repeat(one_hot[:, None], tiny.PUBLIC, axis=1)
  _, new = after_messages(
    "ds_fl", lambda server: soft, {"temperature": 0.5, "distill_steps": 1}
  )
  np.testing.assert_allclose(new.download.targets, 0.25, rtol=1e-6)


def test_feddf_takes_the_median_of_models():
  sent: Any = None

  def send(server):
    nonlocal sent
    sent = like(server.models[COHORT])
    return sent

  server, new = after_messages("feddf", send, {"distill_steps": 0})
  expected = jax.tree.map(np.add, server.models[COHORT], median_of(sent))
  assert tiny.largest_difference(new.models[COHORT], expected) < 1e-5


@pytest.mark.parametrize("name", ["feddf", "scaffold"])
def test_one_who_lies_more_changes_no_more(name):
  """Also in the distillation of an ensemble: of its logits too."""

  def send(factor, server):
    message = server.models[COHORT] if name == "feddf" else server
    # All of the liar's values are far beyond the others'.
    sent = like(message)
    return jax.tree.map(
      lambda x: np.concatenate([x[:4], factor * (1 + np.abs(x[4:]))]), sent
    )

  changes = {"distill_steps": 3} if name == "feddf" else {}
  _, new = after_messages(name, functools.partial(send, 1e3), changes)
  _, other = after_messages(name, functools.partial(send, 1e5), changes)
  _, calm = after_messages(name, functools.partial(send, 0.0), changes)
  assert tiny.largest_difference(new, other) < 1e-5
  assert tiny.largest_difference(new, calm) > 1e-3


@pytest.mark.slow
def test_two_networks_have_one_ensemble_and_a_median_each():
  settings = tiny.make_settings(
    "feddf", 5, bits=(32,), aggregation="median", max_message_norm=1e30,
    client_types="2*mlp(8,8)@32, 3*mlp(6)@32", byzantine_clients=1,
    attack_scale=1e5,
  )  # fmt: skip
  made, _, _ = qj.build(settings, federation=tiny.make_federation())
  start = tiny.to_host(made.init(0)).server
  state, metrics = made.run_round(made.init(0))
  assert float(metrics["participants"]) == 5
  assert len(start.models) == 2
  for cohort, model in tiny.to_host(state).server.models.items():
    # As far as an honest client goes, though one went 1e5 times as far.
    assert 1e-2 < tiny.largest_difference(start.models[cohort], model) < 1
