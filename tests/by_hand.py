"""A client's training, written out: what frameworks for one client do."""

import jax
import jax.numpy as jnp


def by_hand(
  model,
  federation,
  params,
  client_id,
  steps,
  *,
  round_=0,
  rate=0.1,
  momentum=0.0,
  weight_decay=0.0,
):
  """Steps of a new torch.optim.SGD on batches of 4: (params, their losses)."""
  key = jax.random.fold_in(jax.random.key(0), round_)
  draw_key, _ = jax.random.split(jax.random.fold_in(key, client_id))
  data = federation.client(client_id)
  velocity = jax.tree.map(jnp.zeros_like, params)
  losses = []

  def loss(params, batch):
    logits, _ = model.apply(params, {}, batch.inputs, True)
    chosen = jnp.take_along_axis(logits, batch.labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)

  for positions in data.draw(draw_key, steps, 4):
    value, grads = jax.value_and_grad(loss)(params, data.batch(positions))
    grads = jax.tree.map(lambda g, w: g + weight_decay * w, grads, params)
    velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
    params = jax.tree.map(lambda w, v: w - rate * v, params, velocity)
    losses.append(float(value))
  return params, losses
