"""Several runs at once: each is the run that it is by itself."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.build_clients import build_population
from quped_jax.simulation import memory, run_axis, sub_cohorts
from quped_jax.simulation.run_axis import common_parts
from quped_jax.simulation.store import Store
from tests import lowering, tiny

COUNTS = ((5, 23, 40), (30, 9, 12), (7, 64, 11))
CHANGES: list[dict[str, Any]] = [
  {"strength": 1e-3},
  {"learning_rate": (0.3,), "seed": 3},
  {"learning_rate": (0.02,), "seed": 5, "centers_learning_rate": (1e-3,)},
]


def divided(counts):
  """A federation of the same samples, divided so."""
  whole = tiny.make_federation((90, 30))
  rows = np.split(np.arange(90, dtype=np.int32), np.cumsum(counts))[:-1]
  none, test = rows[0][:0], np.arange(110, 130, dtype=np.int32)
  dataset = qj.from_arrays(
    whole.source.inputs, whole.source.labels, num_classes=tiny.CLASSES
  )
  parts = qj.data.Partition(tuple(rows), (none,) * 3, (test,) * 3)
  federation = qj.make_federation(dataset, parts)
  return dataclasses.replace(
    federation, source=whole.source, public=whole.public
  )


def runs_of(method, count=3, model=None, changes=CHANGES, **how):
  """Settings and simulations of runs of the same programs."""
  settings = [
    tiny.make_settings(method, 3, **{"bits": (1, 2, 32), **how, **own})
    for own in changes[:count]
  ]
  federations = [divided(counts) for counts in COUNTS[:count]]
  first = assemble(
    settings[0],
    federation=federations[0],
    model=model,
    others=federations[1:],
  ).simulation
  others = [
    first.over(federation, build_population(own), Store())
    for own, federation in zip(settings[1:], federations[1:], strict=True)
  ]
  return settings, federations, [first, *others]


def begin(simulation, seed, double=False):
  """A fresh state, perhaps in double precision."""
  state = simulation.init(seed)
  if not double:
    return state
  whole = tiny.to_host(state)
  return tiny.from_host(
    jax.tree.map(
      lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, whole
    )
  )


def stacked(simulations, settings, federations, runs=None, double=False):
  """Programs of all at once, their data, and where they begin."""
  common = common_parts(federations)
  make = simulations[0].axis
  assert make is not None
  axis = make(runs or len(simulations), common)
  data = axis.stack_data([x.data for x in simulations])
  state = axis.stack(
    begin(x, own.seed, double)
    for x, own in zip(simulations, settings, strict=True)
  )
  return axis, data, state


def check_runs_are_what_they_are_alone(method, limit, double=False, **how):
  settings, federations, simulations = runs_of(method, **how)
  # With room for more.
  axis, data, state = stacked(
    simulations, settings, federations, len(settings) + 1, double
  )
  state, metrics = axis.run_rounds(state, 2, data)
  accuracies = axis.evaluate(state, data)
  for run, (simulation, own) in enumerate(
    zip(simulations, settings, strict=True)
  ):
    start = begin(simulation, own.seed, double)
    expected, found = simulation.run_rounds(start, 2)
    told = jax.tree.map(lambda x, run=run: x[run], metrics)
    assert tiny.largest_difference(told, found) < limit
    taken = axis.take(state, run)
    assert (
      tiny.largest_difference(
        simulation.export(taken), simulation.export(expected)
      )
      < limit
    )
    table = simulation.evaluate(expected)
    # Rounding may decide for one of 20 samples.
    most = 0 if double else 0.06
    assert tiny.largest_difference(accuracies[run], table) <= most
  return axis


HOW = {
  "at once": {"strategy": "vmap"},
  "in chunks, of whom some are there": {
    "chunk_size": 2, "participation": (0.7, 0.4), "stragglers": 0.5,
  },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  ["at once", pytest.param(list(HOW)[1], marks=pytest.mark.long)],
)
def test_each_run_is_what_it_is_alone(how):
  axis = check_runs_are_what_they_are_alone("quped", 1e-5, **HOW[how])
  assert axis.main.compilations == 1


PRECISIONS = [{"bits": (2, 1, 32)}, {"bits": (1, 32, 2), "seed": 3}]


@pytest.mark.slow
@pytest.mark.parametrize(
  "divided", [False, pytest.param(True, marks=pytest.mark.long)]
)
def test_runs_may_differ_in_their_clients_precisions(divided, monkeypatch):
  """Even where clients of one run would go in sub-cohorts."""
  monkeypatch.setattr(sub_cohorts, "pay", lambda *args: divided)
  how = {"strategy": "vmap", "changes": PRECISIONS, "steps": 2}
  check_runs_are_what_they_are_alone("quped", 1e-5, count=2, **how)


# Of different kinds: an average, a proximal term, two models of a client, one
# that is found by inner steps, control variates, distillation on public data
# and mutual distillation, and levels that are trained.
IN_DOUBLE = {
  "fedavg": {"clients_per_round": 2},
  "fedprox": {},
  "ditto": {},
  "pfedme": {"participation": (0.6,)},
  "scaffold": {"clients_per_round": 2},
  "feddf": {},
  "fml": {},
  "quped": {},
  "qupel": {},
}
# The prox of levels finds them to 1e-4 of a bracket.
LIMITS = {"quped": 1e-8, "qupel": 1e-8}


@pytest.mark.long
@pytest.mark.parametrize("method", IN_DOUBLE)
def test_it_is_so_to_the_last_digits_in_float64(method):
  how = {"bits": (2, 32), "steps": 2, **IN_DOUBLE[method]}
  with jax.enable_x64(True):
    check_runs_are_what_they_are_alone(
      method, LIMITS.get(method, 1e-9), double=True, **how
    )


@pytest.mark.long
def test_it_is_so_of_a_method_with_a_generator():
  bits = tiny.CASES["fedgen"].bits[:3]
  check_runs_are_what_they_are_alone("fedgen", 1e-5, bits=bits)


class Recorded:
  """A network whose statistics are the batches that it was trained on."""

  steps = 3

  def __init__(self):
    self.model = qj.create_model("mlp", tiny.CLASSES, features=(4,))

  def init(self, key, inputs):
    params, _ = self.model.init(key, inputs)
    return params, {"batches": jnp.zeros((self.steps, tiny.BATCH, 6))}

  def apply(self, params, stats, inputs, train):
    outputs, _ = self.model.apply(params, {}, inputs, train)
    if train and inputs.shape[0] == tiny.BATCH:
      batches = jnp.concatenate([stats["batches"][1:], inputs[None]])
      stats = {"batches": batches}
    return outputs, stats


@pytest.mark.slow
def test_batches_are_the_same_bit_for_bit():
  recorded = Recorded()
  model = recorded.model._replace(
    init=recorded.init, apply=recorded.apply, blocks=None
  )
  settings, federations, simulations = runs_of(
    "local", model=model, bits=(32,), steps=recorded.steps, strategy="vmap"
  )
  axis, data, state = stacked(simulations, settings, federations)
  state, _ = axis.run_rounds(state, 2, data)
  seen = []
  for run, (simulation, own) in enumerate(
    zip(simulations, settings, strict=True)
  ):
    alone, _ = simulation.run_rounds(simulation.init(own.seed), 2)
    found, expected = (
      [
        np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(each.clients)
        if "batches" in jax.tree_util.keystr(path)
      ]
      for each in (axis.take(state, run), alone)
    )
    tiny.assert_same_bits(found, expected)
    assert found and all(np.any(x, axis=(2, 3)).all() for x in found)
    seen.append(found[0].tobytes())
  assert len(set(seen)) == 3


@pytest.mark.long
def test_the_fine_tuning_phase_begins_for_all():
  settings, federations, simulations = runs_of("quped", 2, finetune_at=1)
  axis, data, state = stacked(simulations, settings, federations)
  state, _ = axis.run_rounds(state, 1, data)
  state, _ = axis.run_rounds(axis.begin_finetune(state, data), 1, data)
  for run, (simulation, own) in enumerate(
    zip(simulations, settings, strict=True)
  ):
    alone, _ = simulation.run_rounds(simulation.init(own.seed), 1)
    alone = simulation.begin_finetune(alone)
    alone, _ = simulation.run_rounds(alone, 1)
    assert (
      tiny.largest_difference(
        simulation.export(axis.take(state, run)), simulation.export(alone)
      )
      < 1e-5
    )


def small(**how):
  return runs_of("local", 2, bits=(32,), **how)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "bits"),
  [
    pytest.param("local", (32,), marks=pytest.mark.long),
    ("quped", (1, 2, 32)),
  ],
)
def test_a_run_that_diverges_changes_no_bit_of_the_others(method, bits):
  settings, federations, simulations = runs_of(method, 2, bits=bits)
  broken = build_population(
    dataclasses.replace(settings[1], learning_rate=(1e30,))
  )
  last = simulations[0].over(federations[1], broken, Store())
  ends = []
  for others in (simulations, [simulations[0], last]):
    axis, data, state = stacked(others, settings, federations)
    state, _ = axis.run_rounds(state, 3, data)
    ends.append([simulations[0].export(axis.take(state, i)) for i in (0, 1)])
  tiny.assert_same_bits(ends[0][0], ends[1][0])
  assert int(ends[0][1].monitor.undone) == 0 < int(ends[1][1].monitor.undone)


def test_numbers_of_settings_promote_as_those_of_one_run():
  settings, federations, simulations = small()
  axis, data, _ = stacked(simulations, settings, federations)
  for x, *others in zip(
    jax.tree.leaves(data.own[1]),
    *(jax.tree.leaves(run.data[1]) for run in simulations),
    strict=True,
  ):
    assert x.shape[0] == axis.runs
    assert {x.weak_type} == {y.weak_type for y in others}
    assert x.dtype == others[0].dtype


def test_samples_that_all_runs_have_are_there_once():
  settings, federations, simulations = small()
  assert common_parts(federations) == ("source", "public")
  axis, data, _ = stacked(simulations, settings, federations)
  pool = simulations[0].data[0].source.inputs
  assert data.common["source"].inputs is pool
  assert not jax.tree.leaves((data.own[0].source, data.own[0].public))
  other = dataclasses.replace(
    federations[1],
    source=dataclasses.replace(
      federations[1].source, labels=federations[1].source.labels[::-1]
    ),
    public=None,
  )
  assert common_parts([federations[0], other][1:]) == ("source",)
  bare = [dataclasses.replace(x, public=None) for x in federations]
  assert common_parts([bare[0], other]) == ()


@pytest.mark.parametrize("how", [{"devices": 2}, {"client_state": "host"}])
def test_runs_with_several_devices_or_moving_clients_go_by_themselves(how):
  settings = tiny.make_settings("local", 3, bits=(32,), **how)
  simulation = assemble(settings, federation=divided(COUNTS[0])).simulation
  assert simulation.axis is None


def test_runs_are_divided_evenly_where_memory_has_no_room_for_all():
  memory_of = run_axis.Memory(one=100, common=40)
  assert memory_of.total(1) == 100
  assert memory_of.total(5) == 340
  assert memory_of.runs_at_once(48, 10**6) == 48
  assert memory_of.runs_at_once(5, memory_of.total(5)) == 5
  assert memory_of.runs_at_once(5, memory_of.total(5) - 1) == 3
  assert memory_of.runs_at_once(48, memory_of.total(20)) == 16
  assert memory_of.runs_at_once(48, 10) == 1


VMAP, ONE = {"strategy": "vmap"}, {"chunk_size": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "bits", "how", "runs"),
  [
    ("local", 32, ONE, 4),
    ("quped", 2, VMAP, 2),
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in [
        ("fedavg", 32, VMAP, 8),
        ("fedavg", 32, VMAP, 2),
        ("quped", 32, VMAP, 4),
        ("quped", 2, VMAP, 4),
        ("quped", 2, VMAP, 8),
        ("quped", 2, ONE, 4),
        ("quped", 32, ONE, 8),
      ]
    ),
  ],
)
def test_the_formula_of_memory_holds_to_a_quarter(method, bits, how, runs):
  rng = np.random.default_rng(0)
  clients = 8
  data = qj.from_arrays(
    rng.normal(size=(400, 28, 28, 1)).astype(np.float32),
    rng.integers(0, 10, 400),
    num_classes=10,
  )
  rows = tuple(np.arange(320, dtype=np.int32).reshape(clients, 40))
  none, test = rows[0][:0], np.arange(320, 400, dtype=np.int32)
  federation = qj.make_federation(
    data, qj.data.Partition(rows, (none,) * clients, (test,) * clients)
  )
  settings = tiny.make_settings(
    method, clients, bits=(bits,), hidden=(200, 100), batch_size=32, **how
  )
  simulation = assemble(settings, federation=federation).simulation
  assert simulation.axis is not None
  common = common_parts([federation])
  axis = simulation.axis(runs, common)
  given = axis.stack_data([simulation.data])
  state = axis.stack([simulation.init(0)])
  axis.main.compile(state, jnp.int32(1), *given)
  estimate = run_axis.Memory(
    simulation.memory, memory.nbytes(given.common)
  ).total(axis.runs)
  assert 0.75 * axis.main.memory <= estimate <= 1.25 * axis.main.memory


@pytest.mark.slow
@pytest.mark.parametrize("platform", lowering.ACCELERATORS)
def test_all_runs_at_once_lower_for_accelerators(platform):
  settings, federations, simulations = runs_of("quped", strategy="vmap")
  axis, data, state = stacked(simulations, settings, federations)
  text = lowering.text(axis.main, platform, state, jnp.int32(1), *data)
  lowering.check_sums(text, clients=3 * axis.runs)
