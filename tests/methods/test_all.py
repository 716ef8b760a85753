"""What every registered method promises, in one table: `tiny.CASES`."""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation
from quped_jax.methods import api
from tests import tiny
from tests.methods import golden
from tests.methods.every import (
  CLIENTS,
  COHORT,
  EXCHANGES,
  FAMILIES,
  each,
  equal,
  floats,
  of_exchanges,
  over,
)

# Written out, so that a method that loses this property does not drop out of
# the test as well.
PUBLIC = (
  "cfd",
  "cronus",
  "ds_fl",
  "fedaux",
  "fedbe",
  "fedcad",
  "feddf",
  "fedmd",
  "fedssd",
)


def test_the_table_holds_every_method():
  assert set(tiny.METHODS) == set(methods.METHODS)
  assert len(tiny.METHODS) == 45


@of_exchanges
def test_the_docstring_says_which_optimizer_states_survive_a_round(name):
  made = methods.METHODS[name].make
  text = " ".join((sys.modules[made.__module__].__doc__ or "").split())
  _, _, states = text.partition("Optimizer states: ")
  shapes = tiny.tiny(name).simulation.shapes(False)

  def survives(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return any(".opt_state" in jax.tree_util.keystr(path) for path, _ in leaves)

  afresh = "that of the weights starts afresh each round" in states
  assert afresh != survives(shapes.clients)
  assert ("stays at the server" in states) == survives(shapes.server)
  assert "with the client" in states or "stay with it" in states


@over(
  tiny.METHODS,
  fast=("fedavg", "ditto", "quped"),
  slow=(*FAMILIES, *EXCHANGES),
)
def test_two_rounds_of_a_method_are_those_of_its_version(name):
  """Whose finished runs and checkpoints would pass for those of other code."""
  known = golden.read()[name]
  assert methods.METHODS[name].version == known["version"], (
    f"version of {name} was raised: run python -m tests.methods.golden"
  )
  changed = golden.changed(known["numbers"], golden.numbers_of(name))
  assert not changed, (
    f"behaviour of {name} changed ({', '.join(changed)}): raise its version in "
    "quped_jax/methods/registry.py, then run python -m tests.methods.golden"
  )


def test_golden_numbers_tell_changes_from_rounding():
  known = golden.read()
  assert list(known) == sorted(tiny.METHODS)
  numbers = known["quped"]["numbers"]
  rounded = {
    name: value if name.startswith("accuracy") else value * (1 + 1e-5)
    for name, value in numbers.items()
  }
  assert golden.changed(numbers, rounded) == []
  assert len({str(entry["numbers"]) for entry in known.values()}) == (
    len(known)
  )
  for name, value in numbers.items():
    others = {**numbers, name: 1.2 * value + 0.1}
    assert golden.changed(numbers, others) == [name]


# `tiny.tiny` runs one client at a time by default.
VMAP: dict[str, Any] = {"strategy": "vmap"}
ONE: dict[str, Any] = {}
THREE: dict[str, Any] = {"chunk_size": 3}
ON_HOST = {"strategy": "dispatch", "chunk_size": 3}
# Five clients do not divide over two devices.
DEVICES = {"devices": 2, "chunk_size": 2}


@over(tiny.METHODS, fast=(), slow=("quped",))
def test_one_round_does_not_depend_on_how_many_run_at_once(name):
  further = [THREE, ON_HOST] if name in ("local", "fedgkt") else []
  ways = [VMAP, ONE, *further]
  reference, *others = (
    tiny.to_host(tiny.tiny(name, **how).play(1)) for how in ways
  )
  start = tiny.to_host(tiny.tiny(name).state())
  assert all(np.isfinite(x).all() for x in floats(reference.server))
  for other in others:
    assert tiny.largest_difference(reference, other) < 2e-5
  assert tiny.largest_difference(start.clients, reference.clients) > 1e-3


# FedGKT's server looks at single messages; the others only sum them.
IN_DOUBLE = ("quped", "qupel", "fedavg", "local", "fedgkt")


@over(IN_DOUBLE, fast=(), slow=("quped",))
def test_five_rounds_agree_in_double_precision(name):
  start = tiny.to_host(tiny.tiny(name, bits=tiny.BITS).state())
  double = jax.tree.map(
    lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, start
  )
  ends = []
  with jax.enable_x64(True):
    for how in (VMAP, THREE, DEVICES):
      settings = tiny.make_settings(name, CLIENTS, bits=tiny.BITS, **how)
      made = tiny.assemble(settings)
      layout = made.simulation.layout
      assert layout.devices == how.get("devices", 1)
      state = tiny.from_host(tiny.in_slots(double, layout.slots(CLIENTS)))
      # One after the other, and several in one dispatch.
      state, _ = made.simulation.run_round(state)
      state, _ = made.simulation.run_rounds(state, 4)
      assert int(state.round) == 5
      assert made.simulation.program.compilations == 1
      ends.append(tiny.in_slots(tiny.to_host(state), CLIENTS))
  assert floats(ends[0].clients)
  assert all(x.dtype == np.float64 for x in floats(ends[0].clients))
  # The prox of levels finds them to 1e-4 of a bracket, here of less than 1e-4:
  # roundings may decide for the part beside.
  most = 1e-8 if name in ("quped", "qupel") else 1e-9
  for other in ends[1:]:
    assert tiny.largest_difference(ends[0], other) < most


@of_exchanges
def test_runs_depend_on_the_seed_alone(name):
  made = tiny.tiny(name)
  one, again, other = (
    tiny.to_host(made.play(2, seed=seed)) for seed in (0, 0, 1)
  )
  assert equal(one, again)
  assert tiny.largest_difference(one.clients, other.clients) > 1e-3


@over(tiny.METHODS, fast=(), slow=("ditto", "fd", "fedgkt", "quped"))
def test_who_is_absent_stays_as_it_was(name):
  made = tiny.tiny(name, clients_per_round=2)
  start = tiny.to_host(made.state())
  state = made.state()
  end = tiny.to_host(made.simulation.run_round(state)[0])
  same = [
    equal(
      tiny.client(start.clients[COHORT], i), tiny.client(end.clients[COHORT], i)
    )
    for i in range(CLIENTS)
  ]
  assert sum(same) == CLIENTS - 2


@over(tiny.METHODS, fast=("fedavg", "feddf", "quped"), slow=EXCHANGES)
def test_a_round_in_which_nobody_sends_leaves_the_server_as_it_was(name):
  made = tiny.tiny(name)
  server = made.state().server

  def heard_nothing(server, key):
    at_server = api.Context(
      round=jnp.int32(3),
      key=key,
      client_id=jnp.int32(-1),
      spec=None,
      rates=None,
      shared_learning_rate=None,
      public=made.federation.public,
    )
    silence = tiny.silence(made, server)
    return made.method.server_update(server, {COHORT: silence}, at_server)

  after = jax.jit(heard_nothing)(server, jax.random.key(1))
  for old, new in zip(floats(server), floats(after), strict=True):
    np.testing.assert_array_equal(old, new)


@of_exchanges
def test_the_loss_that_is_reported_falls(name):
  made = tiny.tiny(name)
  state, losses = made.state(), []
  for _ in range(12):
    state, metrics = made.simulation.run_round(state)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-3:]) < tiny.CASES[name].loss * losses[0]
  # And no client is mistaken for a diverging one.
  assert int(state.monitor.undone) == 0


WITHOUT_MODEL = (
  "cronus",
  "fd",
  "fedgkt",
  "fedmd",
  "fedproto",
  "fedtgp",
  "local",
)

DIGITS = {
  "dataset": "digits",
  "clients": 4,
  "classes_per_client": 4,
  "rounds": 8,
  "steps": 10,
  "batch_size": 16,
  "public_size": 100,
  "held_out_clients": 1,
  "held_out_client_steps": 5,
  "bits": (2, 32),
  "strength": 1e-4,
  "learning_rate": (0.1,),
  "shared_learning_rate": 0.1,
  "devices": 1,
  "eval_every": 4,
}


@over(tiny.METHODS, fast=("quped",), slow=("fd", "fedgkt"))
def test_digits_are_learned(name):
  case = tiny.CASES[name]
  values = {**DIGITS, "method_options": {name: dict(case.options)}}
  if set(case.bits) == {32}:
    values["bits"] = (32,)
  if case.model == "mlp":
    values["hidden"] = (16, 16)
  settings = qj.Settings(method=name, model=case.model, **values)
  result = qj.run(
    settings,
    federation=digits(),
    display=qj.Display(quiet=True),
  )
  summary = result.summary
  accuracy = summary["accuracy"][summary["primary_variant"]]["mean"]
  # A client holds four of the ten classes.
  assert accuracy > 0.55
  assert summary["bytes_up"] > 0 or name == "local"
  assert summary["gradients"] >= settings.steps
  assert bool(summary["held_out_clients"]) == (name not in WITHOUT_MODEL)
  first, last = result.history[0], result.history[-1]
  assert last["loss"] < first["loss"] or last["loss"] < 0.5


_digits = []


def digits():
  if not _digits:
    _digits.append(build_federation(qj.Settings(**DIGITS)))
  return _digits[0]


def distinct_values(params):
  return {
    layer: len(np.unique(np.asarray(params[layer]["kernel"])))
    for layer in params
    if "kernel" in params[layer]
  }


def check_levels(made, state):
  """Quantized tensors have at most 2^bits values; other tensors have more."""
  assert made.method.primary_variant == "quantized"
  for i, bits in enumerate(made.settings.bits):
    data = made.federation.client(jnp.int32(i))
    client = tiny.client(state.clients[COHORT], i)
    context = api.Context(
      round=jnp.int32(1),
      key=jax.random.key(2),
      client_id=jnp.int32(i),
      spec=api.ClientSpec(jnp.int32(bits)),
      rates=qj.Rates(0.1, 0.01, 0.0),
      shared_learning_rate=0.1,
      public=made.federation.public,
    )
    variants = made.method.variants(state.server, client, data, context, COHORT)
    params = variants["quantized"][0]
    counts = distinct_values(params.get("client", params))
    if bits == 32:
      assert counts["hidden_1"] == 64
    else:
      assert counts["hidden_1"] <= 2**bits
    assert counts["first"] == 48 and counts["last"] == 32


# All but APFL, whose clients have full precision, and FedBN, which has another
# model here.
QUANTIZED = (
  "cfd", "cronus", "ditto", "ds_fl", "fd", "fedala", "fedaux", "fedavg",
  "fedavg_ft", "fedbabu", "fedbe", "fedcad", "feddbe", "feddf", "feddyn",
  "fedftg", "fedgen", "fedgkd", "fedgkd_vote", "fedgkt", "fedkd", "fedmd",
  "fedmlb", "fedntd", "fedper", "fedproto", "fedprox", "fedprox_ft", "fedrep",
  "fedrod", "fedssd", "fedtgp", "fedzkt", "fml", "lg_fedavg", "local", "moon",
  "per_fedavg", "pfedme", "quped", "qupel", "scaffold", "scaffold_ft",
)  # fmt: skip


@over(QUANTIZED, fast=("quped",), slow=EXCHANGES)
def test_quantized_models_have_at_most_as_many_values_as_levels(name):
  made = tiny.tiny(name)
  check_levels(made, made.play(2))


@over(tiny.METHODS, fast=(), slow=("fedgkt", "quped", "scaffold"))
def test_of_equal_clients_epochs_of_each_are_those_of_the_average(name):
  federation = tiny.make_federation((9, 9, 9))

  def played(epochs_of):
    settings = tiny.make_settings(
      name, 3, epochs=2, epochs_of=epochs_of, batch_size=4
    )
    simulation = qj.build(settings, federation=federation).simulation
    return simulation.run_rounds(simulation.init(0), 2)[0]

  first, second = played("average"), played("each")
  assert tiny.largest_difference(first.server, second.server) < 1e-5
  assert tiny.largest_difference(first.clients, second.clients) < 1e-5


@pytest.mark.slow
def test_clients_of_all_precisions_have_as_many_values_as_levels():
  made = tiny.tiny("quped", bits=tiny.BITS)
  check_levels(made, made.play(2))


@over(("fedavg", "scaffold", "pfedme", "ditto"), fast=(), slow=("ditto",))
def test_a_client_of_full_precision_is_not_changed_by_being_quantized(name):
  """Nor are its statistics, whoever else takes part, even if it is absent."""
  made = tiny.tiny(
    name, model="normed", hidden=(), bits=(1, 32), clients_per_round=2
  )
  state = made.simulation.init(0)
  state, _ = made.simulation.run_rounds(state, 3)
  accuracy = made.simulation.evaluate(state)["test"]
  plain = "global" if name in ("fedavg", "scaffold") else "personalized"
  np.testing.assert_array_equal(
    accuracy["quantized"][1::2], accuracy[plain][1::2]
  )


PHASES = (
  "cfd", "cronus", "ditto", "ds_fl", "fd", "fedgkt", "fedkd", "fedmd",
  "fedproto", "fedtgp", "fedzkt", "fml", "local", "pfedme", "quped", "qupel",
)  # fmt: skip


@over(PHASES, fast=("quped",), slow=EXCHANGES)
def test_the_fine_tuning_phase_trains_levels_with_frozen_assignments(name):
  made = tiny.tiny(name)
  frozen = made.simulation.begin_finetune(made.play(2))
  start = tiny.to_host(frozen)
  state = made.simulation.program(
    frozen, jnp.int32(1), made.federation, made.population
  )[0]
  before, after = (
    getattr(s.clients[COHORT], "learner", s.clients[COHORT])
    for s in (start, tiny.to_host(state))
  )
  assert equal(before.assignments, after.assignments)
  check_levels(made, state)
  book = after.codebooks["hidden_1"]["kernel"]
  index = np.asarray(after.assignments["hidden_1"]["kernel"], int)
  kernel = np.asarray(after.params["hidden_1"]["kernel"])
  moved = np.asarray(book.centers) != np.asarray(
    before.codebooks["hidden_1"]["kernel"].centers
  )
  for i, bits in enumerate(made.settings.bits):
    if bits == 32:
      assert len(np.unique(kernel[i])) == 64
      moved_by = tiny.largest_difference(
        tiny.client(after.params, i), tiny.client(before.params, i)
      )
      assert moved_by > 0
    else:
      np.testing.assert_array_equal(kernel[i], book.centers[i][index[i]])
      assert moved[i].any()


# Whose messages are differences of one model, which wrappers can average.
AVERAGES = (
  "apfl", "ditto", "fedala", "fedavg", "fedavg_ft", "fedbabu", "fedbn",
  "fedcad", "feddbe", "fedgkd", "fedgkd_vote", "fedkd", "fedmlb", "fedntd",
  "fedper", "fedprox", "fedprox_ft", "fedrep", "fedrod", "fedssd", "fml",
  "lg_fedavg", "moon", "per_fedavg", "pfedme", "quped", "qupel",
)  # fmt: skip


@each
def test_whose_messages_can_be_averaged(name):
  assert tiny.method_of(name).averages == (name in AVERAGES)


@each
def test_who_has_a_fine_tuning_phase(name):
  has = tiny.method_of(name).begin_finetune is not None
  assert has == (name in (*PHASES, "apfl"))


def test_fedavg_has_no_fine_tuning_phase():
  made = tiny.tiny("fedavg")
  with pytest.raises(ValueError, match="finetune_at=0: must be 0"):
    made.simulation.begin_finetune(made.state())


FAMILY = ("quped", "qupel", "fedavg", "local")
QUPED_FAMILY = over(FAMILY)


@QUPED_FAMILY
def test_weights_are_not_on_the_border_of_two_cells(name):
  """At a border rounding would decide, and strategies could disagree."""
  for state in (tiny.tiny(name).state(), tiny.tiny(name).play(1)):
    client = state.clients[COHORT]
    params = client.params if name != "fedavg" else stacked(state.server)
    assert tiny.midpoint_margin(params, client.codebooks) > 5e-5


def stacked(server):
  return jax.tree.map(lambda x: np.stack([x] * CLIENTS), server.model.params)


@QUPED_FAMILY
def test_rates_of_zero_change_nothing(name):
  made = tiny.tiny(name)
  zero = jax.tree.map(jnp.zeros_like, made.population.rates)
  population = made.population._replace(
    rates=zero, shared_learning_rate=jnp.float32(0)
  )
  state = made.round_with(population)
  start = made.state()
  assert tiny.largest_difference(state.server, start.server) < 1e-6
  new, old = state.clients[COHORT], start.clients[COHORT]
  assert tiny.largest_difference(new.codebooks, old.codebooks) < 1e-6
  if name != "fedavg":
    assert tiny.largest_difference(new.params, old.params) < 1e-6


@of_exchanges
def test_a_clients_rates_are_its_own(name):
  made = tiny.tiny(name)
  rates = made.population.rates
  other = rates._replace(learning_rate=rates.learning_rate.at[2].mul(3.0))
  state = made.round_with(made.population._replace(rates=other))
  plain = made.play(1)
  changed = [
    not equal(
      tiny.client(state.clients[COHORT], i),
      tiny.client(plain.clients[COHORT], i),
    )
    for i in range(CLIENTS)
  ]
  assert changed == [False, False, True, False, False]


@QUPED_FAMILY
def test_traffic_is_the_model_in_single_precision_or_nothing(name):
  simulation = tiny.tiny(name).simulation
  # 6 -> 8 -> 8 -> 4, with biases.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8) + (8 * 4 + 4))
  expected = 0 if name == "local" else size
  assert simulation.bytes_up == simulation.bytes_down == expected


@over(FAMILY, fast=(), slow=("quped",))
def test_full_runs_end_as_well_however_many_run_at_once(name):
  """Rounding may change single predictions, but no accuracy that is reported.

  Mean accuracies after a run are compared over three seeds, on 100 test
  samples each: half a point is one and a half of 300.
  """
  means = []
  for how in (VMAP, ONE):
    made = tiny.tiny(name, bits=tiny.BITS, **how)
    tables = [
      made.simulation.evaluate(made.play(15, seed))["test"] for seed in range(3)
    ]
    means.append(
      {k: np.mean([np.mean(t[k]) for t in tables]) for k in tables[0]}
    )
  for variant, value in means[0].items():
    assert abs(value - means[1][variant]) < 0.005
  assert means[0]["quantized"] > 0.6


@each
def test_options_are_named_in_errors(name):
  with pytest.raises(ValueError, match=rf"{name}\.wrong=3: no such option"):
    qj.Settings(method_options={name: {"wrong": 3}})


@over(PUBLIC)
def test_a_method_of_a_public_set_asks_for_one(name):
  federation = dataclasses.replace(tiny.make_federation(), public=None)
  with pytest.raises(ValueError, match="public_size=0: must be positive"):
    qj.build(tiny.make_settings(name, CLIENTS), federation=federation)


@over([name for name in tiny.METHODS if name not in PUBLIC])
def test_a_method_of_clients_alone_needs_no_public_set(name):
  federation = dataclasses.replace(tiny.make_federation(), public=None)
  settings = tiny.make_settings(name, CLIENTS)
  model = build_clients(settings, federation).model
  assert tiny.make_method(settings, model, federation)
