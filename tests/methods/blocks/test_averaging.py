"""Batch-norm statistics of models that clients share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import by_precision
from quped_jax.methods.blocks import averaging, personal
from quped_jax.quantization import codebook_tree
from tests import tiny
from tests.methods import every

COHORT = tiny.COHORT
BITS = (1, 2, 1, 32)

# Methods whose clients share a model with its statistics.
SHARING = (
  "fedavg", "fedprox", "scaffold", "feddyn", "fedcad", "fedgkd", "fedgkd_vote",
  "fedntd", "fedgen", "feddf", "fedbe", "fedaux", "fedrep",
)  # fmt: skip
# Those that adapt the shared model to a client before it is evaluated.
ADAPTING = ("per_fedavg", "fedavg_ft")


@functools.cache
def play(name: str, bits=BITS, rounds: int = 2, **changes):
  """Some rounds with batch norm: the simulation, and all states."""
  settings = tiny.make_settings(
    name, len(bits), bits=bits, model="normed", hidden=(), **changes
  )
  made = tiny.assemble(settings)
  state = made.simulation.init(0)
  states = [tiny.to_host(state)]
  for _ in range(rounds):
    state, _ = made.simulation.run_round(state)
    states.append(tiny.to_host(state))
  return made, states


def shared_of(server):
  """The server's model; FedDF has one for each cohort."""
  several = getattr(server, "models", None)
  if isinstance(several, dict):
    return several[COHORT]
  return personal.model_of(server)


def variants(made, state, client_id: int):
  """A client's models, as they are evaluated."""
  bits = made.settings.bits[client_id % len(made.settings.bits)]
  client = tiny.client(state.clients[COHORT], client_id)
  context = tiny.about(client_id, bits)._replace(
    rates=qj.Rates(*map(jnp.float32, (0.1, 0.01, 0.01)))
  )
  data = made.federation.client(jnp.int32(client_id))

  @jax.jit
  def evaluated(server, client):
    context_ = context._replace(public=made.federation.public)
    found = made.method.variants(server, client, data, context_, COHORT)
    return {name: variant[:2] for name, variant in found.items()}

  return evaluated(state.server, client)


@every.over(SHARING, fast=(), slow=("fedrep", "feddf"))
def test_a_shared_quantized_model_has_the_servers_statistics(name):
  made, states = play(name)
  server = shared_of(states[-1].server)
  for client_id, bits in enumerate(BITS):
    _, stats = variants(made, states[-1], client_id)["quantized"]
    expected = (
      server.stats
      if bits == 32
      else tiny.client(server.quantized_stats.values, bits - 1)
    )
    assert tiny.largest_difference(stats, expected) == 0
  # Those of two precisions differ, and both from those of full precision.
  one, two = (tiny.client(server.quantized_stats.values, i) for i in range(2))
  assert tiny.largest_difference(one, two) > 1e-3
  assert tiny.largest_difference(one, server.stats) > 1e-3
  # Both sets travel: two norms of eight features, mean and variance.
  params = sum(x.size for x in jax.tree.leaves(server.params))
  if name == "fedavg":
    # But for the client of full precision, to which they are one.
    mean = 4 * (params + 32 + 0.75 * 32)
    assert made.simulation.bytes_up == made.simulation.bytes_down == mean
    for bits in BITS:
      own = 4.0 * (params + 32 + 32 * (bits < 32))
      assert made.simulation.traffic(COHORT, bits) == (own, own)


@every.over(ADAPTING, fast=())
def test_an_adapted_model_has_statistics_of_its_clients_data(name):
  made, states = play(name)
  server = shared_of(states[-1].server)
  for client_id in (0, 1):
    _, stats = variants(made, states[-1], client_id)["quantized"]
    held = tiny.client(server.quantized_stats.values, BITS[client_id] - 1)
    assert tiny.largest_difference(stats, held) > 1e-2
  _, stats = variants(made, states[-1], 2)["quantized"]
  other = variants(made, states[-1], 0)["quantized"][1]
  assert tiny.largest_difference(stats, other) > 1e-2


@pytest.mark.slow
def test_a_precision_that_nobody_sent_keeps_its_statistics():
  """Or has those of the model itself, if it was never heard of."""
  made, states = play("fedavg", bits=(1, 3, 3, 32))
  server = shared_of(states[-1].server)
  held = server.quantized_stats
  np.testing.assert_array_equal(held.heard, [2, 0, 2])
  before = shared_of(states[1].server).quantized_stats
  for slot in (0, 2):
    old, new = (tiny.client(x.values, slot) for x in (before, held))
    assert tiny.largest_difference(old, new) > 1e-3
  unheard = averaging.copy_for(server, tiny.about(0, bits=2).spec)
  assert (
    tiny.largest_difference(unheard.quantized_stats.value, server.stats) == 0
  )
  # In a round without clients of 1 bit.
  silent = jax.tree.map(
    jnp.zeros_like, by_precision.ByPrecision(held.values, held.heard)
  )
  change = by_precision.mean(silent)
  new = by_precision.add(held, change, server.stats)
  assert (
    tiny.largest_difference(
      tiny.client(new.values, 0), tiny.client(held.values, 0)
    )
    == 0
  )


@pytest.mark.slow
def test_statistics_are_averaged_over_clients_of_the_same_bits():
  """One round of FedAvg, against messages that are summed by hand."""
  made, states = play("fedavg")
  before, after = (shared_of(s.server) for s in states[:2])
  sent, samples = [], []

  @jax.jit
  def update(server, client, data, context):
    download = made.method.broadcast(server, context, COHORT)
    return made.method.client_update(download, client, data, context, COHORT)

  for client_id, bits in enumerate(BITS):
    key = jax.random.fold_in(
      jax.random.fold_in(tiny.from_host(states[0]).key, 0), client_id
    )
    spec, rates = made.population.of_client(jnp.int32(client_id))
    context = tiny.about(client_id, bits)._replace(
      key=key,
      # At strength times (round + 1), as by default.
      rates=rates,
      spec=spec,
      shared_learning_rate=made.population.shared_learning_rate,
    )
    data = made.federation.client(jnp.int32(client_id))
    client = tiny.client(states[0].clients[COHORT], client_id)
    result = update(states[0].server, client, data, context)
    sent.append(result.message.quantized_stats.value)
    samples.append(float(result.weight))
  for slot, senders in ((0, (0, 2)), (1, (1,))):
    weights = [samples[i] for i in senders]
    expected = jax.tree.map(
      lambda old, *parts, w=weights: old + np.average(parts, axis=0, weights=w),
      tiny.client(before.quantized_stats.values, slot),
      *(sent[i] for i in senders),
    )
    new = tiny.client(after.quantized_stats.values, slot)
    assert tiny.largest_difference(new, expected) < 1e-5


def test_a_model_without_statistics_or_quantization_has_no_second_set():
  for model, bits in (("mlp", (1, 2)), ("normed", (32,))):
    settings = tiny.make_settings(
      "fedavg", 2, bits=bits, model=model,
      hidden=(8, 8) if model == "mlp" else (),
    )  # fmt: skip
    made = tiny.assemble(settings)
    inputs = made.federation.example()
    server = made.method.init_server(jax.random.key(0), inputs)
    assert shared_of(server).quantized_stats is None


@pytest.mark.slow
def test_own_and_shared_statistics_of_a_partial_model():
  """FedRep shares all of them, FedBN none: there they are re-estimated."""
  made, states = play("fedbn", rounds=1)
  before, after = states
  own = after.clients[COHORT].own.quantized_stats.value
  assert (
    tiny.largest_difference(
      own, before.clients[COHORT].own.quantized_stats.value
    )
    > 1e-2
  )
  _, stats = variants(made, after, 0)["quantized"]
  assert tiny.largest_difference(stats, tiny.client(own, 0)) > 1e-3


@pytest.mark.slow
def test_a_copy_of_full_precision_has_one_set():
  """Its quantized form is the model itself."""
  made, states = play("fedavg")
  server = shared_of(states[-1].server)
  spec = made.population.of_client(jnp.int32(3))[0]
  copy = averaging.copy_for(server, spec)
  assert tiny.largest_difference(copy.quantized_stats.value, copy.stats) == 0
  assert not bool(
    codebook_tree.is_quantized(
      tiny.client(states[-1].clients[COHORT].codebooks, 3)
    )
  )
