"""Networks that drop out, under every method."""

import ast
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import methods, models, random_keys
from tests import tiny
from tests.methods import every, toy

COHORT = tiny.COHORT
VMAP = {"strategy": "vmap"}
# One of each family, and those that draw batches of their own.
METHODS = (*every.FAMILIES, "apfl", "fedbn", "fedmd", "per_fedavg")
INPUTS = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)

# Its statistics are the key of its last training pass.
ECHO = qj.Model(
  "echo",
  lambda key, inputs: (
    {"w": jnp.zeros(tiny.CLASSES)},
    {"key": jnp.zeros(2, jnp.uint32)},
  ),
  lambda params, stats, inputs, train, key=None: (
    jnp.broadcast_to(params["w"], (len(inputs), tiny.CLASSES)),
    stats if key is None else {"key": jax.random.key_data(key)},
  ),
  lambda path: False,
  random=True,
)


def tiny_of(method: str, model: str = "with_dropout", **changes) -> tiny.Tiny:
  return tiny.tiny(method, model=model, hidden=(), **changes)


def play(made: tiny.Tiny, rounds: int = 1):
  state = made.simulation.init(0)
  for _ in range(rounds):
    state, _ = made.simulation.run_round(state)
  return state


def network(name: str) -> qj.Model:
  return models.settle(
    qj.create_model(name, tiny.CLASSES), tiny.CLASSES, INPUTS
  )


def test_a_pass_has_a_key_of_its_client_its_round_and_its_step_alone():
  settings = tiny.make_settings("local", 5, bits=(32,), steps=3)
  federation = tiny.make_federation()
  method = tiny.make_method(settings, ECHO, federation)
  context, root = toy.make_context(), jax.random.key(0)
  client = method.init_client(
    root, jnp.asarray(INPUTS), (), 0, context.spec, COHORT
  )

  @jax.jit
  def last_key(client_id, key):
    own = federation.client(client_id)
    context = toy.make_context(client_id, key=key)
    result = method.client_update((), client, own, context, COHORT)
    return result.client.stats["key"]

  seen = set()
  for round_, client_id in itertools.product(range(2), range(3)):
    key = jax.random.fold_in(jax.random.fold_in(root, round_), client_id)
    last = last_key(client_id, key)
    _, key = jax.random.split(key)
    step = jax.random.fold_in(key, 2)  # The last of three.
    key = jax.random.fold_in(step, random_keys.TRAINING_PASS)
    np.testing.assert_array_equal(last, jax.random.key_data(key))
    seen.add(tuple(last.tolist()))
  assert len(seen) == 6


def test_every_training_pass_of_a_method_goes_through_one_seam():
  """`apply` by itself, with a true `train`, would be given no key."""
  told = {
    (path.name, ast.unparse(node.args[-1]))
    for path in pathlib.Path(methods.__file__).parent.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".apply")
  }
  # A part of a network is told what the whole is told, and so is a network
  # inside another.
  told -= {("extended.py", "*key"), ("fedmlb.py", "*key")}
  assert len(told) > 3
  assert {train for _, train in told} == {"False"}


def test_nothing_is_dropped_without_training_or_at_a_rate_of_zero():
  plain = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  params, _ = plain.init(jax.random.key(0), INPUTS)
  for name, train in (("with_dropout", False), ("with_no_dropout", True)):
    said, expected = (
      model.apply(params, {}, INPUTS, train)[0]
      for model in (network(name), plain)
    )
    np.testing.assert_array_equal(said, expected)
  assert (
    network("with_dropout").random and not network("with_no_dropout").random
  )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["quped", "feddf"])
def test_a_rate_of_zero_trains_as_the_network_without_dropout(method):
  ends = (play(tiny.tiny(method)), play(tiny_of(method, "with_no_dropout")))
  tiny.assert_same_bits(*map(tiny.to_host, ends))


@every.over(METHODS, fast=(), slow=("quped",))
def test_a_network_that_drops_out_trains_alike_under_any_strategy(name):
  model = "with_dropout_normed" if name == "fedbn" else "with_dropout"
  made = tiny_of(name, model)
  start = tiny.to_host(made.simulation.init(0))
  first = tiny.to_host(play(made))
  second = tiny.to_host(play(tiny_of(name, model, **VMAP)))
  assert tiny.largest_difference(first, second) < 2e-5
  assert tiny.largest_difference(start.clients, first.clients) > 1e-3
  assert int(first.monitor.undone) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["quped", "fedavg", "feddf"])
def test_networks_that_drop_out_are_evaluated_as_those_that_do_not(method):
  made, plain = tiny_of(method), tiny.tiny(method)
  state = play(made, 3)
  said, expected = (m.simulation.evaluate(state) for m in (made, plain))
  jax.tree.map(np.testing.assert_array_equal, said, expected)


@every.over(("quped", "fedrep", "per_fedavg"), fast=(), slow=("fedrep",))
def test_statistics_are_estimated_anew_of_networks_that_drop_out(name):
  made = tiny_of(name, "with_dropout_normed")
  state = play(made, 2)
  first, again = (made.simulation.evaluate(state) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert np.isfinite(jax.tree.leaves(first["test"])).all()


@pytest.mark.slow
def test_what_a_client_drops_does_not_depend_on_who_else_is_there():
  everyone, few = (
    tiny.to_host(play(tiny_of("local", num_clients=n))) for n in (5, 2)
  )
  first = jax.tree.map(lambda x: x[:2], everyone.clients[COHORT])
  assert tiny.largest_difference(first, few.clients[COHORT]) < 1e-5
