"""Clients' states off the devices, in blocks: the same results."""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from tests import tiny
from tests.simulation import several
from tests.simulation.commands import free_port

ROOT = pathlib.Path(__file__).parents[2]
CLIENTS = len(tiny.COUNTS)


def simulate(method, folder=None, *, cases, **changes):
  settings = tiny.make_settings(method, CLIENTS, **changes)
  made = assemble(settings, federation=tiny.make_federation(), workdir=folder)
  state = made.simulation.init(3)
  for rounds in cases:
    state, metrics = made.simulation.run_rounds(state, rounds)
  return made.simulation, state, metrics


HOW: dict[str, dict[str, Any]] = {
  "one": {"clients_per_block": 1},
  "devices": {"clients_per_block": 2, "devices": 2},
  "vmap": {"strategy": "vmap"},
  "disk": {"client_state": "disk", "clients_per_block": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "how"),
  [
    ("scaffold", "disk"),
    *(
      pytest.param(method, how, marks=pytest.mark.long)
      for method, how in [
        ("quped", "devices"),
        ("scaffold", "vmap"),
        ("quped", "one"),
        ("quped", "vmap"),
        ("scaffold", "one"),
        ("scaffold", "devices"),
        ("quped", "disk"),
      ]
    ),
  ],
)
def test_moving_clients_changes_nothing(method, how, tmp_path):
  some = {"clients_per_round": 3}
  simulation, expected, metrics = simulate(method, cases=[1, 3], **some)
  changes = {"client_state": "host", **HOW[how]}
  moved, got, others = simulate(
    method, tmp_path, cases=[1, 3], **some, **changes
  )
  assert isinstance(jax.tree.leaves(got.clients)[0], np.ndarray)
  assert moved.program.compilations == 1
  for name, value in metrics.items():
    np.testing.assert_allclose(value, others[name], rtol=1e-5)
  states = [tiny.to_host(x) for x in (expected, got)]
  assert tiny.largest_difference(*(x.server for x in states)) < 1e-4
  assert tiny.largest_difference(*(x.clients for x in states)) < 1e-4
  table, again = simulation.evaluate(expected), moved.evaluate(got)
  for variant, values in table["test"].items():
    np.testing.assert_allclose(values, again["test"][variant], atol=0.2)


@pytest.mark.slow
def test_a_state_moves_from_devices_to_the_host_and_back():
  some = {"clients_per_round": 3}
  resident, state, _ = simulate("fedavg", cases=[1], **some)
  hosted, _, _ = simulate(
    "fedavg", cases=[1], client_state="host", clients_per_block=2, **some
  )
  copy = jax.tree.map(jnp.array, state)
  expected, _ = resident.run_rounds(state, 2)
  got, _ = hosted.run_rounds(copy, 2)
  ends = [tiny.to_host(x) for x in (expected, got)]
  assert tiny.largest_difference(ends[0].clients, ends[1].clients) < 1e-5
  back, _ = resident.run_rounds(got, 1)
  expected, _ = resident.run_rounds(expected, 1)
  ends = [tiny.to_host(x) for x in (expected, back)]
  assert tiny.largest_difference(ends[0].clients, ends[1].clients) < 1e-5


@pytest.mark.long
def test_the_fine_tuning_phase_begins_for_clients_elsewhere_too(tmp_path):
  some = {"clients_per_round": 3, "finetune_at": 1, "rounds": 3}
  made = [
    simulate("quped", tmp_path, cases=[1], **some, client_state=where)
    for where in ("device", "host", "disk")
  ]
  ends = []
  for simulation, state, _ in made:
    state, _ = simulation.run_rounds(simulation.begin_finetune(state), 1)
    ends.append(tiny.to_host(state))
  for end in ends[1:]:
    assert tiny.largest_difference(ends[0].clients, end.clients) < 1e-4
  assert os.listdir(tmp_path / "clients") == ["clients_finetuning"]


@pytest.mark.slow
def test_a_round_without_anyone_is_one_on_the_host_too(tmp_path):
  path = tmp_path / "trace.csv"
  path.write_text("round,client\n1,2\n")
  _, state, metrics = simulate(
    "quped", cases=[1], client_state="host", participation_trace=str(path)
  )
  assert float(metrics["participants"]) == 0 and int(state.round) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "changes", "message"),
  [
    ("fedgkt", {}, "client_state='host': must be 'device' with a method whose"),
    ("quped", {"client_state": "disk"}, "client_state='disk': .* without a wo"),
    ("quped", {"client_state": "tape"}, "client_state='tape': must be one of"),
    ("quped", {"clients_per_block": -1}, "clients_per_block=-1: must be at le"),
    (
      "quped",
      {"clients_per_block": 3, "client_state": "device"},
      "clients_per_block=3: must be 0 with client_state='device'",
    ),
    ("quped", {"strategy": "dispatch"}, "strategy='dispatch': must be another"),
  ],
)
def test_what_cannot_be_is_an_error(method, changes, message):
  with pytest.raises(ValueError, match=message):
    simulate(method, cases=[1], **{"client_state": "host", **changes})


class Looks(qj.Display):
  """Looks into a folder whenever a run reports a round."""

  def __init__(self, folder):
    super().__init__(quiet=True)
    self.folder, self.bytes, self.names = folder, 0, list[str]()

  def on_evaluation(self, evaluation):
    files = [p for p in self.folder.rglob("*") if p.is_file()]
    self.bytes = sum(p.stat().st_size for p in files)
    self.names = os.listdir(self.folder)


@pytest.mark.slow
def test_a_run_keeps_its_clients_in_the_workdir(tmp_path):
  settings = tiny.make_settings(
    "quped", CLIENTS, client_state="disk", rounds=2, clients_per_round=2
  )
  looks = Looks(tmp_path / "clients")
  result = qj.run(
    settings, tmp_path, federation=tiny.make_federation(), display=looks
  )
  size = result.summary["memory"]["client_state_bytes"]
  assert looks.bytes >= size and looks.names == ["clients"]
  assert not looks.folder.exists()
  own = qj.client_state(result.state, 2)
  assert np.isfinite(np.asarray(jax.tree.leaves(own)[0])).all()


@pytest.mark.slow
def test_a_state_of_two_devices_goes_on_in_host_memory():
  two, state, _ = simulate("fedavg", cases=[1], bits=(32,), devices=2)
  assert two.layout.devices == 2
  hosted, _, _ = simulate(
    "fedavg", cases=[1], bits=(32,), client_state="host", clients_per_block=2
  )
  copy = jax.tree.map(jnp.array, state)
  expected, _ = two.run_rounds(state, 1)
  got, _ = hosted.run_rounds(copy, 1)
  assert len(jax.tree.leaves(got.server)[0].devices()) == 1
  ends = [tiny.to_host(x) for x in (expected, got)]
  assert tiny.largest_difference(ends[0].server, ends[1].server) < 1e-5


@pytest.mark.slow
def test_what_is_restored_lies_on_disk_again(tmp_path):
  stored, state, _ = simulate(
    "fedavg", tmp_path, cases=[1], client_state="disk", clients_per_block=2
  )
  saved = jax.tree.map(np.array, stored.export(state))
  again = stored.restore(saved)
  for new, old in zip(
    jax.tree.leaves(again.clients), jax.tree.leaves(saved.clients), strict=True
  ):
    assert isinstance(new, np.memmap)
    np.testing.assert_array_equal(new, old)


@pytest.mark.slow
def test_blocks_cross_no_devices_and_rounds_end_in_sums():
  counts = (5, 23, 40, 64, 17, 9, 30, 12)
  ends = []
  for where, devices in (("device", 1), ("host", 8)):
    made = tiny.assemble(
      tiny.make_settings(
        "fedavg", 8, bits=(32,), client_state=where, devices=devices
      ),
      tiny.make_federation(counts),
    )
    state, _ = made.simulation.run_rounds(made.simulation.init(0), 2)
    ends.append(tiny.to_host(state))
    if where == "host":
      assert made.simulation.layout.devices == 8
      backend: Any = made.simulation.run_rounds.__wrapped__.__self__
      crossing = [
        set(re.findall(r"all-\w+|collective-\w+|reduce-scatter", text))
        for program in (backend.main, backend.close)
        for text in [next(iter(program._compiled.values())).as_text()]
      ]
      assert crossing == [set(), {"all-reduce"}]
  assert tiny.largest_difference(ends[0].server, ends[1].server) < 1e-5


@pytest.mark.long
def test_processes_that_keep_their_own_clients_get_the_result_of_one(tmp_path):
  """On eight devices, of two processes; from place to place and unevenly.

  The first has all participants of a round, and the only client of a cohort.
  """
  (tmp_path / "one").mkdir()
  one = several.play(tmp_path / "one", ["device"] * 4, devices=1)
  port = str(free_port())
  started = [
    subprocess.Popen(
      [sys.executable, "-m", "tests.simulation.several", port, "2", str(i)]
      + [str(tmp_path), "device,disk,device,host"],
      cwd=ROOT,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    lines = [x.communicate(timeout=400)[0].splitlines() for x in started]
  finally:
    for process in started:
      process.kill()
  two = [json.loads(of_process[-1]) for of_process in lines]
  own = [{k for k in x["clients"] if k != "-1"} for x in two]
  assert own == [set("01238"), set("4567")]
  clients = {**two[0].pop("clients"), **two[1].pop("clients")}
  clients.pop("-1")  # Of the cohort of which a process has no client.
  assert two[0] == two[1]
  assert two[0].pop("told") == [[0], [1]]
  # Each device has the samples of its own process, or of its own clients.
  assert two[0].pop("samples") < one.pop("samples")
  for i, states in one.pop("clients").items():
    assert clients[i] == pytest.approx(states, rel=1e-4)
  for end, expected in zip(
    two[0].pop("metrics"), one.pop("metrics"), strict=True
  ):
    assert end == pytest.approx(expected, rel=1e-4)
  for end, values in two[0].pop("accuracy").items():
    assert values == pytest.approx(one["accuracy"][end], abs=0.051)
  for name, values in two[0].items():
    assert values == pytest.approx(one[name], rel=1e-4)
  folders = sorted(x.name for x in tmp_path.glob("clients*"))
  assert folders == ["clients", "clients_of_process_1"]
