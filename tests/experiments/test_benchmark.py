"""The benchmark: its yardsticks, and every suite at its smallest size."""

import collections
import json
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from absl import flags

import quped_jax as qj
from experiments import benchmark
from experiments.benchmarks import (
  engine,
  flops,
  machine,
  plain,
  step,
  timing,
  torch_loop,
)
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.timing import Contestant
from quped_jax import methods
from quped_jax.experiment.build_clients import build_population
from quped_jax.experiment.training import make_training
from quped_jax.methods import api


@pytest.fixture(scope="module")
def described():
  return machine.describe(quick=True)


@pytest.fixture
def bench(described, tmp_path):
  console = rich.console.Console(quiet=True)
  return Bench(
    "suite", described, tmp_path, repetitions=9, quick=True, console=console
  )


def test_machine_knows_its_versions_and_rates(described):
  assert described["versions"]["jax"] == jax.__version__
  assert described["versions"]["quped_jax"] == qj.__version__
  assert (described["versions"]["torch"] is None) != torch_loop.available()
  assert described["device"] == f"cpu{machine.cores()}"
  assert set(described["matrix_gflops"]) == {"float32", "bfloat16"}
  assert min(described["matrix_gflops"].values()) > 0
  assert described["copy_bytes_per_second"] > 0


@pytest.mark.slow
def test_contestants_take_turns():
  calls = []
  contestants = [
    Contestant(name, lambda name=name: calls.append(name), 1)
    for name in ("a", "b", "c")
  ]
  times = timing.measure(contestants, 4, at_least=0.0)
  assert [t.repetitions for t in times.values()] == [4, 4, 4]
  # After two runs of each, every turn runs each contestant once.
  assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
  turns = [calls[i : i + 3] for i in range(6, len(calls), 3)]
  assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
  assert len(set(map(tuple, turns))) > 1


@pytest.mark.slow
def test_times_are_of_one_unit():
  slow = Contestant("slow", lambda: time.sleep(0.02), 4)
  measured = timing.measure([slow], 3, at_least=0.0)["slow"]
  assert 0.005 <= measured.minimum <= measured.median < 0.02
  assert measured.spread >= 0


@pytest.mark.slow
def test_a_short_run_is_repeated_within_a_repetition():
  calls = []
  short = Contestant("short", lambda: calls.append(time.sleep(0.002)), 1)
  measured = timing.measure([short], 2, at_least=0.02)["short"]
  assert len(calls) >= 2 + 2 * 4
  assert measured.minimum < 0.02


@pytest.mark.slow
def test_what_is_slow_runs_less_often(monkeypatch):
  monkeypatch.setattr(timing, "_AT_MOST", 0.01)
  calls = []
  contestants = [
    Contestant(name, lambda: calls.append(time.sleep(0.02)), 1, warm=warm)
    for name, warm in (("cold", False), ("warm", True))
  ]
  times = timing.measure(contestants, 5)
  assert [t.repetitions for t in times.values()] == [1, 1]
  assert len(calls) == 2 + 1


def test_flops_of_a_perceptron():
  model = qj.create_model("mlp", 10, features=(64, 32))
  layers = [2 * 16 * n for n in (784 * 64, 64 * 32, 32 * 10)]
  assert flops.layer_flops(model, (16, 28, 28, 1)) == layers
  # Without the gradient of the images.
  total = 3 * sum(layers) - layers[0]
  assert flops.sgd_flops(model, (16, 28, 28, 1)) == total


def test_flops_of_convolutions():
  model = qj.create_model("cnn1", 10, conv="native")
  images = 4 * np.array([28 * 28 * 25 * 32, 14 * 14 * 25 * 32 * 64])
  dense = 4 * np.array([7 * 7 * 64 * 512, 512 * 10])
  layers = [2 * int(n) for n in (*images, *dense)]
  assert flops.layer_flops(model, (4, 28, 28, 1)) == layers


def test_strides_count_in_flops_of_resnet():
  model = qj.create_model("resnet8", 10, conv="native")
  per_size = 32 * 32 * 9 * 16 * 16
  # A stage halves both sizes and doubles the channels.
  convs = [32 * 32 * 27 * 16, per_size, per_size]
  convs += [per_size // 2, per_size] * 2
  layers = [2 * n for n in (*convs, 64 * 10)]
  assert flops.layer_flops(model, (1, 32, 32, 3)) == layers


@pytest.mark.slow
def test_plain_ways_all_take_the_same_step():
  model = qj.create_model("mlp", engine.CLASSES, features=(4,))
  work = plain.make_work(model, 2, 1, 3, (5,))
  states = []
  for way in (plain.vmapped, plain.vmapped_step, plain.looped):
    state = way(work)()
    if isinstance(state, list):
      state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state)
    states.append(state)
  for other in states[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      states[0],
      other,
    )


def operations(method, federation, settings):
  """Results of products and convolutions in a client's compiled round."""
  spec, rates = build_population(settings).of_client(0)
  context = api.Context(
    round=jnp.int32(0),
    key=jax.random.key(0),
    client_id=jnp.int32(0),
    spec=spec,
    rates=rates,
    shared_learning_rate=jnp.float32(0.1),
  )

  def client_round(key):
    inputs = federation.example()
    server = method.init_server(key, inputs)
    client = method.init_client(key, inputs, server, 0, spec, "clients")
    data = federation.client(jnp.int32(0))
    return method.client_update(server, client, data, context, "clients")

  # XLA has removed unused operations and merged equal ones.
  lowered = jax.jit(client_round).lower(jax.random.key(0))
  text = lowered.compile().as_text() or ""
  found = re.findall(r"= (\S+?)(?:{\S*)? (dot|convolution)\(", text)
  return collections.Counter(found)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "options", "shape"),
  [
    ("mlp", {"features": (5, 6, 7)}, (8,)),
    pytest.param(
      "cnn1",
      {"conv_features": (2, 3), "dense_features": (4,)},
      (8, 8, 1),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_network_part_has_the_passes_of_quped(name, options, shape):
  model = qj.create_model(name, engine.CLASSES, conv="native", **options)
  federation = engine.random_federation(1, shape, 4)
  settings = qj.Settings(
    clients=1, method="quped", bits=(1,), steps=2, batch_size=2
  )
  training = make_training(settings)
  quped = methods.METHODS["quped"].build(
    api.Models(shared=model, clients={"clients": model}),
    training,
    settings.options(),
    None,
  )
  whole = operations(quped, federation, settings)
  network = operations(step.make_passes(model, training), federation, settings)
  # The whole has products of other sizes too, in the prox of the levels.
  assert network == {kind: whole[kind] for kind in network}
  assert sum(network.values()) > 40


FIELDS = {
  "group",
  "name",
  "unit",
  "sizes",
  "seconds_min",
  "seconds_median",
  "spread",
  "repetitions",
  "gflops",
  "dtype",
  "matrix_rate_fraction",
  "reference",
  "ratio",
}


def test_these_are_the_suites():
  assert set(benchmark.SUITES) == set(LONG_SUITES)


LONG_SUITES = (
  *("clients", "conv", "methods", "model_files", "precision", "step"),
  "uneven",
)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG_SUITES)
def test_every_suite_writes_what_it_measured(name, bench):
  bench.suite = name
  benchmark.SUITES[name](bench)
  path = bench.write()
  assert path.name == f"{name}_{machine.device_name()}.json"
  written = json.loads(path.read_text())
  assert written["suite"] == name
  assert written["quick"]
  assert {"date", "versions", "cores", "processor"} < set(written)
  groups = {row["group"] for row in written["rows"]}
  for row in written["rows"]:
    assert set(row) == FIELDS
    assert 0 < row["seconds_min"] <= row["seconds_median"]
    assert row["repetitions"] == 2
  for group in groups:
    rows = {r["name"]: r for r in written["rows"] if r["group"] == group}
    for row in rows.values():
      reference = rows[row["reference"]]
      assert math.isclose(
        row["ratio"], row["seconds_min"] / reference["seconds_min"]
      )
      if row["gflops"] is not None:
        rate = written["matrix_gflops"][row["dtype"]]
        fraction = row["matrix_rate_fraction"]
        assert math.isclose(fraction * rate, row["gflops"])
  torch_rows = [r for r in written["rows"] if "PyTorch" in r["name"]]
  if name in ("conv", "clients"):
    assert bool(torch_rows) == torch_loop.available()
  if name == "model_files":
    table = (bench.folder / f"{name}_{bench.stem}.md").read_text().splitlines()
    assert len(table) == 2 + 2 and "| MLP on digits | 2 | " in table[2]
    assert len({line.count("|") for line in table}) == 1
  if name == "clients":
    assert (bench.folder / f"round_time_{bench.stem}.png").stat().st_size > 9000


@pytest.mark.long
def test_suites_do_without_torch(bench, monkeypatch):
  monkeypatch.setattr(torch_loop, "available", lambda: False)
  benchmark.SUITES["conv"](bench)
  assert not [row for row in bench.rows if "PyTorch" in row["name"]]
  # Ratios are relative to the first contestant.
  assert all("PyTorch" not in row["reference"] for row in bench.rows)


def test_an_unknown_suite_is_one_line(monkeypatch, capsys):
  values = flags.FLAGS
  values(["benchmark", "--suite=nope"])
  with pytest.raises(SystemExit):
    benchmark.main(["benchmark"])
  assert "suite='nope': must be one of conv, step" in capsys.readouterr().err
