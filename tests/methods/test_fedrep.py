import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods.blocks import messages
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
BODY = ("first", "hidden_1")


def split_layers(params):
  return {k: params[k] for k in BODY}, params["last"]


@pytest.fixture(scope="module")
def played():
  return toy.run("fedrep", 2)


@pytest.mark.slow
def test_the_head_stays_and_differs_among_clients(played):
  made = played.made
  before, after = played.states[0], played.states[-1]
  download = made.method.broadcast(after.server, tiny.about(0), COHORT)
  assert set(jax.tree.leaves(download.params["last"])) == set()
  # The server's head is still the initial one, its body is not.
  bodies, heads = zip(
    *(split_layers(state.server.params) for state in (before, after)),
    strict=True,
  )
  assert tiny.largest_difference(*heads) == 0
  assert tiny.largest_difference(*bodies) > 1e-2
  own = after.clients[COHORT].own.params
  assert all(own[layer]["kernel"] == optax.MaskedNode() for layer in BODY)
  for i, j in ((0, 1), (1, 2)):
    apart = tiny.largest_difference(
      tiny.client(own["last"], i), tiny.client(own["last"], j)
    )
    assert apart > 1e-2
  # 6 -> 8 -> 8, with biases.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8))
  assert made.simulation.bytes_down == made.simulation.bytes_up == size


def round_of(client: int, head_steps: int, steps: int = 5, **changes):
  """The server, what the client sends, and its state before and after."""
  settings = tiny.make_settings(
    "fedrep", 3, bits=(2,), steps=steps,
    method_options={"fedrep": {"head_steps": head_steps}},
  )  # fmt: skip
  model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  made = tiny.make_method(settings, model)
  federation = tiny.make_federation((40, 23, 30))
  context = toy.make_context(client, **changes)
  context = context._replace(spec=context.spec._replace(bits=jnp.int32(2)))

  # Two programs: within one, XLA may compute the initial weights twice, and
  # round them differently.
  @jax.jit
  def begin():
    key, example = jax.random.key(0), federation.example()
    server = made.init_server(key, example)
    start = made.init_client(
      key, example, server, context.client_id, context.spec, COHORT
    )
    return server, start

  @jax.jit
  def play(server, start):
    download = made.broadcast(server, context, COHORT)
    data = federation.client(context.client_id)
    return made.client_update(download, start, data, context, COHORT)

  server, start = begin()
  return server, start, play(server, start)


@pytest.mark.slow
def test_a_straggler_that_gets_no_further_trains_its_head_alone():
  """The phases: as many steps on the head as told, then the body."""
  _, start, result = round_of(1, 3, num_steps=jnp.int32(3))
  sent = jax.tree.leaves(result.message.params)
  assert not any(np.any(x) for x in sent)
  assert tiny.largest_difference(result.client.own, start.own) > 1e-2
  books = (c.levels.codebooks for c in (result.client, start))
  assert tiny.largest_difference(*books) == 0

  _, _, longer = round_of(1, 3, num_steps=jnp.int32(4))
  sent = jax.tree.leaves(longer.message.params)
  assert min(np.abs(x).max() for x in sent) > 1e-3
  # The body's steps leave the head as it was.
  assert tiny.largest_difference(longer.client.own, result.client.own) == 0
  books = (c.levels.codebooks for c in (longer.client, start))
  assert tiny.largest_difference(*books) > 0


@pytest.mark.slow
@pytest.mark.parametrize("own", [2, 3])
def test_of_its_own_steps_a_client_takes_half_on_the_head(own):
  """As where all clients have as many."""
  steps = jnp.int32(own)
  _, _, found = round_of(1, 0, 6, num_steps=steps, own_steps=steps)
  _, _, alone = round_of(1, 0, own)
  same = found.message, found.client.own, found.metrics
  expected = alone.message, alone.client.own, alone.metrics
  assert tiny.largest_difference(same, expected) < 1e-6


@pytest.mark.slow
def test_a_straggler_with_steps_of_its_own_trains_its_head_first():
  own = jnp.int32(4)
  _, _, found = round_of(1, 0, 6, num_steps=jnp.int32(2), own_steps=own)
  assert not any(np.any(x) for x in jax.tree.leaves(found.message.params))
  _, _, longer = round_of(1, 0, 6, num_steps=jnp.int32(3), own_steps=own)
  sent = jax.tree.leaves(longer.message.params)
  assert min(np.abs(x).max() for x in sent) > 1e-3
  assert tiny.largest_difference(longer.client.own, found.client.own) == 0


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_steps_that_count():
  first, four, all_count, whole = (
    float(round_of(1, 3, **changes)[2].metrics["loss"])
    for changes in (
      *({"num_steps": jnp.int32(n)} for n in (3, 4, 5)),
      {},
    )
  )
  assert all_count == pytest.approx(whole, rel=1e-5)
  # Three steps on the head and one on the body, of about the same loss.
  assert four != pytest.approx(first, rel=1e-3)
  last = 4 * four - 3 * first
  assert 0 < last < 2 * first


@pytest.mark.slow
def test_steps_are_those_of_the_paper():
  """At full precision: gradient steps on one part with the other fixed."""
  played = toy.play_one_client("fedrep", head_steps=2)
  client = played.result.client
  context = toy.make_context()
  data = tiny.make_federation((23,)).client(jnp.int32(0))
  key = jax.random.fold_in(context.key, 2)
  draws = ((context.key, 2), (key, 1))
  batches = [
    [data.batch(p) for p in data.draw(jax.random.split(k)[0], n, tiny.BATCH)]
    for k, n in draws
  ]

  def loss(body, head, batch):
    params = {"first": body, "last": head}
    return toy.hand_labels(toy.hand_forward(params, batch.inputs), batch.labels)

  start, _ = played.model.init(jax.random.key(0), np.ones((1, 6)))
  body, head = start["first"], start["last"]
  head = toy.descend(head, lambda h, b: loss(body, h, b), batches[0])
  new = toy.descend(body, lambda x, b: loss(x, head, b), batches[1])
  assert tiny.largest_difference(client.own.params["last"], head) < 1e-5
  sent = jax.tree.map(jnp.add, body, played.result.message.params["first"])
  assert tiny.largest_difference(sent, new) < 1e-5


def test_the_body_is_the_mean_of_the_clients_bodies():
  settings = tiny.make_settings("fedrep", 2, bits=(32,))
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  for weighting, expected in (("uniform", 3.0), ("samples", 2.5)):
    made = qj.methods.get_method("fedrep").build(
      qj.methods.api.Models(shared=model, clients={COHORT: model}),
      make_training(settings),
      qj.methods.get_method("fedrep").options(weighting=weighting),
      None,
    )
    server = made.init_server(jax.random.key(0), jnp.ones((1, 6)))
    message = made.broadcast(server, tiny.about(0), COHORT)
    federation = tiny.make_federation((9, 3))
    sums = [
      made.receive(
        server,
        jax.tree.map(lambda x, v=v: jnp.full_like(x, v), message),
        messages.client_weight(weighting, federation.client(jnp.int32(i))),
        None,
        COHORT,
      )
      for i, v in enumerate((1.0, 5.0 if weighting == "uniform" else 7.0))
    ]
    total = {COHORT: jax.tree.map(jnp.add, *sums)}
    new = made.server_update(server, total, toy.at_server())
    moved = jax.tree.map(jnp.subtract, new.params, server.params)
    np.testing.assert_allclose(moved["first"]["bias"], np.full(4, expected))
    np.testing.assert_allclose(moved["last"]["bias"], np.zeros(4))
    nobody = jax.tree.map(jnp.zeros_like, total)
    same = made.server_update(server, nobody, toy.at_server())
    assert tiny.largest_difference(same, server) == 0


@pytest.mark.slow
def test_a_clients_model_is_the_servers_body_with_its_head(played):
  made, state = played.made, played.states[-1]
  client = tiny.client(state.clients[COHORT], 1)
  data = made.federation.client(jnp.int32(1))
  variants = made.method.variants(
    state.server, client, data, toy.make_context(1), COHORT
  )
  assert set(variants) == {"personalized", "quantized"}
  body, head = split_layers(variants["personalized"][0])
  assert (
    tiny.largest_difference(body, split_layers(state.server.params)[0]) == 0
  )
  assert tiny.largest_difference(head, client.own.params["last"]) == 0
  kernel = variants["quantized"][0]["hidden_1"]["kernel"]
  assert len(np.unique(kernel)) <= 4


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  played = toy.check_learns("fedrep", rounds=25)
  assert set(played.accuracy) == {"personalized", "quantized"}
  full = toy.run("fedrep", 1, bits=(32,), evaluate=True)
  assert full.made.simulation.primary_variant == "personalized"
  assert set(full.accuracy) == {"personalized"}


@pytest.mark.parametrize("name", ["no last layer", "no body"])
def test_a_model_must_have_head_and_body(name):
  layers = {"no last layer": ("one", "two"), "no body": ("last",)}[name]
  model = qj.Model(
    name,
    lambda key, inputs: ({layer: jnp.zeros((6, 4)) for layer in layers}, {}),
    lambda params, stats, inputs, train: (inputs @ params[layers[0]], stats),
    lambda path: False,
  )
  settings = tiny.make_settings("fedrep", 2, bits=(32,))
  with pytest.raises(ValueError, match=f"model='{name}': must have a layer"):
    qj.build(settings, federation=tiny.make_federation((9, 9)), model=model)


@pytest.mark.parametrize(
  ("steps", "head_steps", "message"),
  [
    (1, 0, "steps=1: must be at least 2 with method='fedrep'"),
    (5, 5, "fedrep.head_steps=5: must be less than 5, the local steps"),
    (5, -1, "fedrep.head_steps=-1: must be at least 0"),
  ],
)
def test_both_need_a_step(steps, head_steps, message):
  with pytest.raises(ValueError, match=message):
    settings = tiny.make_settings(
      "fedrep", 2, steps=steps,
      method_options={"fedrep": {"head_steps": head_steps}},
    )  # fmt: skip
    qj.build(settings, federation=tiny.make_federation((9, 9)))


def test_an_unknown_weighting_is_an_error():
  with pytest.raises(ValueError, match="fedrep.weighting='x': must be one of"):
    qj.Settings(method_options={"fedrep": {"weighting": "x"}})
