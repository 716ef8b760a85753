"""Messages in fewer bytes, with and without what was lost before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api, by_precision
from quped_jax.methods.wrappers import (
  byzantine,
  compress,
  privacy,
  robust,
)
from tests import tiny
from tests.methods import every, toy

COHORT = tiny.COHORT
LOSSY = compress.COMPRESSIONS[1:]
# Besides those that average.
OTHERS = ("fedbe", "feddf", "feddyn", "scaffold", "scaffold_ft")
# Of every kind: parts of a model, an own model, one more network, downloads of
# more than one model, and messages of more than one.
KINDS = ("fedbn", "fedrep", "apfl", "fedkd", "fedgkd", "feddf", "scaffold")


def model(seed: int = 0) -> api.GlobalModel:
  """Two arrays that are compressed and three that are not."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  params = {"kernel": draw(10, 8), "bias": draw(8), "scale": draw(70)}
  return api.GlobalModel(params, {"count": jnp.arange(90), "var": draw(70)})


def sends() -> api.FederatedMethod:
  """A method whose clients send what they are given as their data."""

  def client_update(download, client, data, context, cohort):
    del download, context, cohort
    message, weight = data
    return api.ClientResult(client, message, weight, {})

  return tiny.method_of("fedavg").replace(
    init_client=lambda *_: "own",
    broadcast=lambda server, context, cohort: server,
    client_update=client_update,
  )


def make(
  compression: str, error_feedback: bool, method=None, **how
) -> api.FederatedMethod:
  defaults = {"bits": 4, "norm": "max", "share": 0.1}
  return compress.with_compression(
    method or sends(),
    compress.make_compressor(compression, **{**defaults, **how}),
    error_feedback=error_feedback,
  )


def begin(method: api.FederatedMethod) -> Any:
  spec = api.ClientSpec(jnp.int32(32))
  return method.init_client(
    jax.random.key(0), jnp.zeros((1, 6)), model(), 0, spec, COHORT
  )


def update(method, client, message, weight=1.0, context=None, download=None):
  """A client's round, in which it sends this message."""
  data: Any = message, weight
  return method.client_update(
    download or model(), client, data, context or toy.make_context(), COHORT
  )


def rounds(method, count: int, weight=1.0):
  """Messages as they are read, what they were before, and the last client."""
  client, read, meant = begin(method), [], []
  for round_ in range(count):
    message = model(seed=round_)
    result = update(
      method, client, message, weight, toy.make_context(0, round_)
    )
    client = result.client
    read.append(method.decode(result.message))
    meant.append(message)
  return read, meant, client


def floats_of(tree) -> np.ndarray:
  """All numbers of the arrays that are compressed."""
  return np.concatenate([
    np.ravel(tree.params["kernel"]), np.ravel(tree.params["scale"])
  ])  # fmt: skip


@every.over(LOSSY, fast=(), slow=("topk",))
def test_what_was_sent_and_what_is_kept_are_all_that_was_meant(name):
  read, meant, client = rounds(make(name, True), 5)
  kept = np.concatenate(client.residual)
  total = sum(floats_of(x) for x in read) + kept
  np.testing.assert_allclose(
    total, sum(floats_of(x) for x in meant), rtol=1e-4, atol=1e-4
  )
  assert np.linalg.norm(kept) > 0.1
  assert client.own == "own"


def test_without_feedback_each_message_is_compressed_by_itself():
  read, meant, client = rounds(make("sign", False), 2)
  for got, message in zip(read, meant, strict=True):
    kernel = np.asarray(message.params["kernel"])
    expected = np.where(kernel >= 0, 1, -1) * np.mean(np.abs(kernel))
    np.testing.assert_allclose(got.params["kernel"], expected, rtol=1e-6)
  assert client.residual == ()


@pytest.mark.slow
def test_all_of_the_numbers_are_the_plain_message():
  for feedback in (False, True):
    read, meant, client = rounds(make("topk", feedback, share=1.0), 2)
    for got, message in zip(read, meant, strict=True):
      assert tiny.largest_difference(got, message) == 0
    assert all(not np.any(x) for x in client.residual)


def test_small_arrays_integers_and_statistics_travel_whole():
  method = make("sign", False)
  result = update(method, begin(method), model())
  sent = result.message
  assert isinstance(sent.params["kernel"], compress.Packed)
  assert isinstance(sent.params["scale"], compress.Packed)
  np.testing.assert_array_equal(sent.params["bias"], model().params["bias"])
  assert tiny.largest_difference(sent.stats, model().stats) == 0
  sizes = [
    [x.nbytes for x in jax.tree.leaves(part)]
    for part in (sent.params["kernel"], sent.params["scale"])
  ]
  assert sizes == [[4, 10], [4, 9]]


def test_what_does_not_count_is_not_taken_for_sent():
  *_, client = rounds(make("topk", True), 3, weight=0.0)
  assert all(not np.any(x) for x in client.residual)


def test_clients_and_rounds_have_rounding_of_their_own():
  method = make("qsgd", False, bits=2)

  def read(client_id, round_):
    context = toy.make_context(client_id, round_)
    sent = update(method, begin(method), model(), context=context).message
    return floats_of(method.decode(sent))

  first = read(0, 0)
  np.testing.assert_array_equal(first, read(0, 0))
  for other in (read(1, 0), read(0, 1)):
    assert np.any(first != other)
  # So do the arrays of one message.
  same = jnp.full(80, 0.3)
  both = {"a": same.at[0].set(1.0), "b": same.at[0].set(1.0)}
  message = api.GlobalModel(both, {})
  sent = update(method, begin(method), message, download=message).message
  found = method.decode(sent).params
  assert np.any(found["a"] != found["b"])


def test_parts_by_precision_stay_what_they_are():
  own = by_precision.OfPrecision({"var": jnp.ones(80)}, 3)
  message = api.GlobalModel({}, {}, own)
  method = make("uniform", False)
  result = update(method, begin(method), message, download=message)
  part = result.message.quantized_stats
  assert by_precision.is_of_precision(part) and part.precisions == 3
  assert tiny.largest_difference(result.message, message) == 0


def test_what_a_method_packs_itself_is_unpacked_last():
  twice = sends().replace(
    decode=lambda message: jax.tree.map(lambda x: 2 * x, message)
  )
  method = make("topk", False, twice, share=1.0)
  sent = update(method, begin(method), model()).message
  read = method.decode(sent)
  doubled = jax.tree.map(lambda x: 2 * x, model())
  assert tiny.largest_difference(read, doubled) == 0


def test_a_lie_is_compressed_like_any_message():
  def client_update(download, client, data, context, cohort):
    del download, data, context, cohort
    return api.ClientResult(client, model(), 1.0, {})

  lying = byzantine.with_byzantine_clients(
    sends().replace(client_update=client_update), 1, "sign_flip", 10.0
  )
  method = make("sign", False, lying)
  data = tiny.make_federation((9,)).client(jnp.int32(0))
  kernel = np.asarray(model().params["kernel"])
  size = np.mean(np.abs(kernel))
  for client_id, factor in ((0, 1), (1, -10)):
    context = toy.make_context(client_id)
    sent = method.client_update(model(), begin(method), data, context, COHORT)
    read = method.decode(sent.message).params["kernel"]
    np.testing.assert_allclose(read, factor * size * np.sign(kernel), rtol=1e-5)


def test_the_median_is_of_what_was_read():
  """Other wrappers need not know of this one."""
  inner = robust.with_aggregation(sends(), "median")
  method = make("sign", False, inner)
  assert method.collect is inner.collect and method.receive is inner.receive
  assert method.server_update is inner.server_update


@pytest.mark.parametrize("compression", LOSSY)
def test_privacy_clips_what_was_read(compression):
  private = privacy.with_privacy(
    sends(), bound=0.5, noise=1.0, expected={32: 1.0}
  )
  method = make(compression, True, private)
  client = begin(method)
  message = jax.tree.map(
    lambda x: 100.0 * x, model()._replace(stats={"var": model().stats["var"]})
  )
  for round_ in range(3):
    context = toy.make_context(0, round_)
    result = update(method, client, message, context=context, download=message)
    client = result.client
    heard = method.receive(
      None, method.decode(result.message), 1.0, None, COHORT
    )
    assert toy.norm(heard.total) <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"compression": "zip"},
      "compression='zip': must be one of none, qsgd, uniform, topk, sign",
    ),
    ({"compression_bits": 1}, "compression_bits=1: must be from 2 to 8"),
    ({"compression_bits": 9}, "compression_bits=9: must be from 2 to 8"),
    ({"compression_norm": "l1"}, "compression_norm='l1': must be one of max"),
    ({"compression_share": 0.0}, "compression_share=0.0: must be above 0"),
    ({"compression_share": 1.1}, "compression_share=1.1: .* at most 1"),
    ({"error_feedback": "yes"}, "error_feedback='yes': must be one of auto"),
    (
      {"error_feedback": "on"},
      "error_feedback='on': must be .* with compression='none'",
    ),
  ],
)
def test_settings_that_cannot_be_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(**changes)


def test_what_is_lost_by_bias_is_fed_back_by_default():
  found = {x: compress.feeds_back(x, "auto") for x in compress.COMPRESSIONS}
  assert found == {
    "none": False, "qsgd": False, "uniform": False, "topk": True, "sign": True
  }  # fmt: skip
  assert compress.feeds_back("qsgd", "on")
  assert not compress.feeds_back("sign", "off")


@pytest.mark.parametrize("name", tiny.CASES)
def test_whose_messages_can_be_compressed(name):
  method = tiny.method_of(name)
  if method.averages or name in OTHERS:
    compress.check_compressible(method, name, "sign")
    return
  compress.check_compressible(method, name, "none")
  with pytest.raises(ValueError, match=f"^compression='sign': .*{name!r}"):
    compress.check_compressible(method, name, "sign")


def test_messages_that_are_something_else_are_an_error():
  method = make("sign", False)
  other = model()._replace(stats={})
  with pytest.raises(ValueError, match=r"compression: must be 'none' .* array"):
    update(method, begin(method), model(), download=other)


def test_bytes_are_counted_as_they_travel():
  """Of weights 6 x 16, 16 x 16 and 16 x 4, and 36 biases."""
  sizes = {
    "qsgd": 3 * 4 + (96 + 256 + 64) // 2,
    "uniform": 3 * 8 + (96 + 256 + 64) // 2,
    # Of 10, 26 and 7 numbers, a list of places is 9, 26 and 6 bytes.
    "topk": 4 * (10 + 26 + 7) + 9 + 26 + 6,
    "sign": 3 * 4 + (96 + 256 + 64) // 8,
  }
  for compression, size in sizes.items():
    made = tiny.assemble(
      tiny.make_settings(
        "fedavg", 2, bits=(32,), hidden=(16, 16), compression=compression
      )
    )
    assert made.simulation.bytes_up == 4 * 36 + size, compression
    assert made.simulation.bytes_down == 4 * (96 + 256 + 64 + 36)


def played(name: str, count: int = 3, federation=None, **changes):
  """The simulation, and its state after some rounds."""
  settings = tiny.make_settings(name, 5, **changes)
  made = tiny.assemble(settings, federation)
  state, metrics = made.simulation.run_rounds(made.simulation.init(0), count)
  assert metrics["diverged"] == 0
  return made, tiny.to_host(made.simulation.export(state))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_methods_of_every_kind_send_less(name):
  settings = tiny.make_settings(name, 5, compression="sign")
  simulation = tiny.assemble(settings).simulation
  assert simulation.bytes_up < 0.8 * simulation.bytes_down


@every.over(("quped", "scaffold"), fast=(), slow=("scaffold",))
def test_all_of_the_numbers_are_the_method_as_it_is(name):
  some = {"bits": (1,) if name == "quped" else (32,), "steps": 2}
  _, plain = played(name, 2, **some)
  _, packed = played(name, 2, **some, compression="topk", compression_share=1.0)
  assert tiny.largest_difference(plain.server, packed.server) < 1e-5
  own = packed.clients[COHORT].own
  assert tiny.largest_difference(plain.clients[COHORT], own) < 1e-5


@pytest.mark.long
def test_it_does_not_matter_where_states_are():
  some = {"compression": "sign", "clients_per_round": 3, "bits": (32,)}
  ends = [
    played("fedavg", 4, **some, **where)[1]
    for where in (
      {},
      {"client_state": "host", "clients_per_block": 2},
      {"strategy": "vmap", "devices": 2},
    )
  ]
  first = ends[0].clients[COHORT].residual
  assert sum(np.linalg.norm(x) for x in first) > 1e-3
  for end in ends[1:]:
    end = tiny.in_slots(end, 5)
    assert tiny.largest_difference(ends[0].server, end.server) < 1e-4
    residual = end.clients[COHORT].residual
    assert tiny.largest_difference(first, residual) < 1e-4


@pytest.mark.slow
def test_a_message_is_judged_by_what_it_says():
  """A length is that of the model, not that of what travels."""
  settings = tiny.make_settings(
    "fedavg", 5, bits=(32,), hidden=(16, 16), compression="sign",
    max_message_norm=1e-6,
  )  # fmt: skip
  made = tiny.assemble(settings)
  state = made.simulation.init(0)
  start = tiny.to_host(state)
  state, metrics = made.simulation.run_round(state)
  assert (metrics["participants"], metrics["diverged"]) == (0, 5)
  # What was undone was not sent either.
  assert (
    tiny.largest_difference(tiny.to_host(state).clients, start.clients) == 0
  )


@pytest.mark.slow
def test_clients_learn_with_what_travels():
  """A bit for each weight, and what is lost is sent later."""
  settings = tiny.make_settings(
    "fedavg", 5, bits=(32,), hidden=(16, 16), compression="sign"
  )
  simulation = tiny.assemble(settings).simulation
  state, first = simulation.run_round(simulation.init(0))
  _, last = simulation.run_rounds(state, 29)
  assert last["loss"] < 0.6 * first["loss"]
