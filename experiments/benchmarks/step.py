"""Suite `step`: what a client step of QuPeD costs, and which part costs what.

CNN1 on 28x28 images, batch 32, always as rounds of the engine on all devices;
times are per client step. The unit is a step of plain SGD (method `local` at 32
bits), which takes 3 forward-equivalents of network passes. QuPeD takes 7 at
full precision and 14 quantized.

The network part of a quantized step is timed on its own, by a method with the
same passes and the same updates of x and w, in which plain sets of weights
stand in for the quantized forms of x, so that no work on codebooks is left. The
rest of the whole step is the work on the weights. Its floor is the least memory
traffic it needs, at the rate of a copy on all devices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from experiments.benchmarks import engine, flops
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.tasks import CNN1, TINY
from experiments.benchmarks.timing import Contestant
from quped_jax.experiment.build_clients import build_population
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import distill, local_steps, messages, trees
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.codebook import describe_bits
from quped_jax.quantization.codebook_tree import path_name

_SGD = "SGD"
_NETWORK = "network part, quantized"
_PASSES = {_SGD: 3, "QuPeD, 32 bits": 7, _NETWORK: 14}

# Reads or writes of every quantized weight, at the least, in one step:
#   a: read x and write its quantized form; the gradient joins the update   2
#   b: write the new x's quantized form (the update has it at hand)         1
#      read x for the gradient in the levels                                1
#      the center prox counts three times                                   3
#   c: read x and write its form at the new levels                          2
# What an update of SGD itself reads and writes is in the network part.
_WEIGHT_PASSES = 9


def run(bench: Bench) -> None:
  """Measures the suite."""
  task = TINY if bench.quick else CNN1._replace(steps=3)
  clients, steps, batch = 4 if bench.quick else 8, task.steps, task.batch
  shape, model, native = task.shape, task.model(), task.model("native")
  federation = task.federation(clients)
  common: dict[str, Any] = {"steps": steps, "batch_size": batch}
  units = clients * steps

  def quped(*bits):
    return engine.rounds(federation, model, method="quped", bits=bits, **common)

  sgd = engine.rounds(federation, model, method="local", bits=(32,), **common)
  count = flops.sgd_flops(native, (batch, *shape))
  contestants = [
    Contestant(_SGD, sgd, units, count),
    Contestant(_NETWORK, _network_part(federation, model, common), units),
    Contestant("QuPeD, 32 bits", quped(32), units),
    *(
      Contestant(f"QuPeD, {describe_bits([b])}", quped(b), units)
      for b in (1, 2, 4, 8)
    ),
    Contestant("QuPeD, mixed bits", quped(1, 2, 4, 32), units),
  ]
  rows = bench.measure(
    "CNN1 28x28, SGD and QuPeD",
    "client step",
    contestants,
    sizes={"clients": clients, "steps": steps, "batch": batch},
    reference=_SGD,
  )
  _derive(bench, rows, _quantized_bytes(model, federation))


def _quantized_bytes(model: qj.Model, federation: qj.Federation) -> int:
  params, _ = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return sum(
    4 * leaf.size
    for path, leaf in leaves
    if model.is_quantized(path_name(path))
  )


def _derive(bench: Bench, rows: dict[str, Any], quantized_bytes: int) -> None:
  """Compares network passes with their count; derives the other work."""
  sgd = rows[_SGD]["seconds_min"]
  passes = {}
  for name in ("QuPeD, 32 bits", _NETWORK):
    in_steps = rows[name]["seconds_min"] / sgd
    floor = _PASSES[name] / _PASSES[_SGD]
    passes[name] = {
      "passes": _PASSES[name],
      "sgd_steps": in_steps,
      "floor_sgd_steps": floor,
      "of_floor": in_steps / floor,
    }
  bench.derive("network passes of a step", passes)
  network = rows[_NETWORK]["seconds_min"]
  traffic = _WEIGHT_PASSES * quantized_bytes
  floor = traffic / bench.machine["copy_bytes_per_second"]
  uniform = rows["QuPeD, 4 bits"]["seconds_min"]
  work = {}
  for name, row in rows.items():
    whole = row["seconds_min"]
    if name not in _PASSES:
      work[name] = {
        "seconds": whole - network,
        "share_of_step": (whole - network) / whole,
        "floor_seconds": floor,
        "floor_passes": _WEIGHT_PASSES,
        "step_of_uniform_4_bits": whole / uniform,
      }
  bench.derive("work on the weights in a step", work)


def _network_part(
  federation: qj.Federation, model: qj.Model, common: dict[str, Any]
) -> engine.Rounds:
  """Rounds of a method with QuPeD's passes but without its quantization."""
  settings = qj.Settings(
    clients=federation.num_clients,
    method="quped",
    bits=(32,),
    learning_rate=(0.01,),
    shared_learning_rate=0.01,
    **common,
  )
  simulation = qj.make_simulation(
    make_passes(model, make_training(settings)),
    federation,
    build_population(settings),
    {"clients": np.arange(federation.num_clients)},
    devices=0,
  )
  return engine.Rounds(simulation)


def make_passes(model: qj.Model, training: Training) -> api.FederatedMethod:
  """`quped_jax.methods.quped` with plain weights in place of quantized ones.

  In place of the three soft quantizations of a step there are three sets of
  weights, made once per round. They differ, as those do, so that the compiler
  cannot take two passes for one.
  """
  kl = functools.partial(distill.kl_divergence, temperature=3.0)

  def descend(params, grads, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)

  def hidden(params, factor):
    """Scaled kernels where weights are quantized, None elsewhere."""

    def pick(path, x):
      return factor * x if model.is_quantized(path_name(path)) else None

    return jax.tree_util.tree_map_with_path(pick, params)

  def view(kernels, params):
    """The given kernels, and params elsewhere."""
    return jax.tree.map(
      lambda kernel, x: x if kernel is None else kernel,
      kernels,
      params,
      is_leaf=lambda x: x is None,
    )

  def client_update(download, client, data, context, cohort):
    del cohort
    first, second, third = (hidden(client, f) for f in (0.9, 0.8, 0.7))

    def step(carry, batch):
      params, shared = carry

      def forward(params):
        return qj.models.training_pass(model, params, {}, batch)[0]

      teacher, pull_back = jax.vjp(forward, shared)

      def objective(params):
        logits = forward(params)
        labels = training.loss(logits, batch.labels)
        return 0.5 * labels + 0.5 * kl(jax.lax.stop_gradient(teacher), logits)

      def weights_loss(params, kernels):
        loss = objective(params)
        return loss + objective(view(kernels, params)), loss

      # a: 6, and both gradients in one update.
      (grads, more), loss = jax.grad(
        weights_loss, argnums=(0, 1), has_aux=True
      )(params, first)
      grads = view(jax.tree.map(jnp.add, more, hidden(grads, 1)), grads)
      params = descend(params, grads, context.rates.learning_rate)
      # b: 3; a maximum asks for every entry of the gradient, and no more.
      levels = jax.grad(lambda kernels: objective(view(kernels, params)))(
        second
      )
      largest = [jnp.max(g) for g in jax.tree.leaves(levels)]
      # c: 2 for the new models, 2 to go back through the teacher; 1 was above.
      taught = [forward(params), forward(view(third, params))]

      def global_loss(logits):
        return 0.5 * sum((kl(logits, t) for t in taught), jnp.zeros(()))

      (grads,) = pull_back(jax.grad(global_loss)(teacher))
      shared = descend(shared, grads, context.shared_learning_rate)
      return (params, shared), {"loss": loss, "largest": sum(largest)}

    (client, shared), metrics = local_steps.run(
      step, (client, download), data, context, training
    )
    message = trees.difference(shared, download)
    return api.ClientResult(client, message, 1.0, metrics)

  def server_update(server, aggregates, context):
    del context
    return descend(server, messages.mean_message(aggregates, server), -1.0)

  return api.FederatedMethod(
    init_server=lambda key, inputs: model.init(key, inputs)[0],
    init_client=lambda key, inputs, *_: model.init(key, inputs)[0],
    broadcast=lambda server, client_id, cohort: server,
    client_update=client_update,
    server_update=server_update,
    variants=lambda *_: {},
    primary_variant="personalized",
  )
