import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny

COHORT = tiny.COHORT


@pytest.mark.slow
def test_a_client_trains_the_same_alone_and_beside_bigger_clients():
  everyone = tiny.tiny("local")
  few = tiny.tiny("local", num_clients=2)
  assert few.federation.train.max_count < everyone.federation.train.max_count
  state = everyone.play(1).clients[COHORT]
  alone = few.play(1).clients[COHORT]
  assert tiny.midpoint_margin(alone.params, alone.codebooks) > 1e-4
  first = jax.tree.map(lambda x: x[:2], state)
  assert tiny.largest_difference(first, alone) < 1e-5
  start = few.state().clients[COHORT]
  assert tiny.largest_difference(alone, start) > 1e-2


@pytest.mark.slow
def test_full_precision_is_gradient_descent_on_each_clients_batches():
  made = tiny.tiny("local", bits=(32,))
  start, end = made.state(), made.play(1)
  for i in (0, 3):
    data = made.federation.client(jnp.int32(i))
    key = jax.random.fold_in(jax.random.fold_in(start.key, 0), i)
    draw_key, _ = jax.random.split(key)
    params = tiny.client(start.clients[COHORT].params, i)
    for positions in data.draw(draw_key, 5, tiny.BATCH):
      batch = data.batch(positions)

      def loss(params, batch=batch):
        logits, _ = made.model.apply(params, {}, batch.inputs, True)
        chosen = jax.nn.log_softmax(logits)[
          jnp.arange(tiny.BATCH), batch.labels
        ]
        return -jnp.mean(chosen)

      params = jax.tree.map(
        lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)
      )
    own = tiny.client(end.clients[COHORT].params, i)
    assert tiny.largest_difference(own, params) < 1e-5


@pytest.mark.slow
def test_32_bit_clients_of_a_mixed_federation_train_in_full_precision():
  mixed = tiny.tiny("local").play(1).clients[COHORT].params
  static = tiny.tiny("local", bits=(32,)).play(1).clients[COHORT].params
  last = len(tiny.COUNTS) - 1
  assert tiny.FEW[last] == 32
  own, full = (tiny.client(tree, last) for tree in (mixed, static))
  assert tiny.largest_difference(own, full) < 1e-6
  other = tiny.largest_difference(tiny.client(mixed, 1), tiny.client(static, 1))
  assert other > 1e-3


def test_nothing_travels():
  made = tiny.tiny("local")
  assert made.play(1).server == ()
  assert made.method.broadcast((), jnp.int32(0), COHORT) == ()


@pytest.mark.slow
def test_a_model_of_any_kind_can_be_trained():
  """Ten lines make a model of one's own: plain functions, no layer names."""
  model = qj.Model(
    "linear",
    lambda key, inputs: ({"w": jnp.zeros((inputs.shape[1], 4))}, {}),
    lambda params, stats, inputs, train: (inputs @ params["w"], stats),
    lambda path: path == "w",
  )
  settings = qj.Settings(
    method="local", clients=2, bits=(2,), steps=5, batch_size=8, rounds=3
  )
  result = qj.run(
    settings,
    federation=tiny.make_federation((30, 40)),
    model=model,
    display=qj.Display(quiet=True),
  )
  state = result.state.clients[COHORT]
  levels = qj.hard_quantize_tree(
    tiny.client(state.params, 0), tiny.client(state.codebooks, 0)
  )
  assert len(np.unique(levels["w"])) <= 4
  assert result.summary["accuracy"]["personalized"]["mean"] > 0.5
