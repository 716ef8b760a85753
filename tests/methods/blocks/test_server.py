import chex
import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.methods import api
from quped_jax.methods.blocks import server
from quped_jax.quantization import optimizers


def test_descent_is_the_optimizers_with_statistics_carried():
  def loss(params, stats, x):
    return jnp.sum((params - x) ** 2), stats + x

  xs = jnp.array([1.0, -2.0, 0.5])
  optimizer = optimizers.base_optimizer("momentum", momentum=0.5)
  start = api.GlobalModel(jnp.float32(3.0), jnp.float32(0))
  (params, stats, _), _ = server.descend(
    optimizer, 0.1, loss, start, optimizer.init(start.params), xs
  )
  by_hand, velocity = 3.0, 0.0
  for x in np.asarray(xs):
    velocity = 0.5 * velocity + 2 * (by_hand - x)
    by_hand -= 0.1 * velocity
  np.testing.assert_allclose(params, by_hand, rtol=1e-6)
  np.testing.assert_allclose(stats, -0.5)


def test_descent_may_end_at_the_mean_of_its_last_models():
  def loss(params, stats, x):
    return jnp.sum((params - x) ** 2), stats + x

  def descend(count, **how):
    optimizer = optimizers.base_optimizer("momentum")
    start = api.GlobalModel(jnp.float32(3.0), jnp.float32(0))
    xs = jnp.array([1.0, -2.0, 0.5, 4.0])[:count]
    state = optimizer.init(start.params)
    return server.descend(optimizer, 0.1, loss, start, state, xs, **how)

  ends = [descend(count)[0] for count in (1, 2, 3, 4)]
  for last in (1, 2, 4):
    mean, state = descend(4, last=last)
    for found, parts in ((mean.params, 0), (mean.stats, 1)):
      expected = np.mean([end[parts] for end in ends[-last:]])
      np.testing.assert_allclose(found, expected, rtol=1e-6)
    chex.assert_trees_all_close(state, descend(4)[1])
  chex.assert_trees_all_close(descend(4, last=9)[0], mean)


def test_what_cohorts_sent_is_joined():
  def aggregate(clients):
    ids = jnp.array(clients)
    return api.Aggregate(
      (), 1.0, api.Collected(ids, {"x": 10.0 * ids}, jnp.ones(len(clients)))
    )

  joined = server.all_collected({"a": aggregate([2, -1]), "b": aggregate([0])})
  np.testing.assert_array_equal(joined.clients, [2, -1, 0])
  np.testing.assert_array_equal(joined.parts["x"], [20, -10, 0])
  chex.assert_shape(joined.weights, (3,))


def test_padding_of_samples_that_were_sent_is_told_apart():
  inputs = jnp.arange(12.0).reshape(3, 4, 1)
  labels = jnp.arange(12).reshape(3, 4)
  received = server.receive_samples(inputs, labels, jnp.array([1, 0, 3]))
  everything = received.everything.batch(jnp.arange(12))
  np.testing.assert_array_equal(everything.labels, np.arange(12))
  assert received.real.train.count == 4
  real = received.real.batch(jnp.arange(4))
  np.testing.assert_array_equal(real.labels, [0, 8, 9, 10])
  np.testing.assert_array_equal(real.inputs[:, 0], [0, 8, 9, 10])
  np.testing.assert_array_equal(received.rows[:4], [0, 8, 9, 10])
  drawn = received.real.draw(jax.random.key(0), 50, 3)
  assert set(np.unique(drawn)) == {0, 1, 2, 3}
