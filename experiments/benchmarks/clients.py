"""Suite `clients`: seconds per round against number of clients; memory.

1. Memory of the compiled round over 1000 clients of an MLP 784-200-100-10,
   local training, without the data, as a multiple of all clients' state.
2. Rounds of 16 to 4096 clients of the digits' MLP (64-64-64-10, batch 16, 10
   steps) on random data, local training and QuPeD at 1 bit: the engine on one
   device and on all, and, for local training of few clients, a Python loop that
   calls one compiled client round per client, and a PyTorch loop.
3. The digits' MLP with 200 clients and the MLP 784-200-100-10 with 50 clients
   (batch 32, 10 steps), local training: the engine's strategies against the
   Python loop and the PyTorch loop.

Times are per client and round. The engine draws its batches within the round;
the loops find theirs prepared. Leaves the figure `round_time_DEVICE.png`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.benchmarks import engine, torch_loop
from experiments.benchmarks.bench import NO_TORCH, Bench
from experiments.benchmarks.tasks import DIGITS, MNIST, TINY, Task
from experiments.benchmarks.timing import Contestant
from quped_jax.experiment.figures import style
from quped_jax.quantization.codebook import describe_bits

_ALL = "ours, all devices"
_ONE = "ours, one device"
_LOOP = "Python loop, jitted rounds"

_CLIENTS = (16, 64, 256, 1024, 4096)
_LOOP_CLIENTS = (16, 64, 256)
_TORCH_CLIENTS = (16, 64, 200)
# Time per client is compared with that at this number of clients.
_FLAT_FROM = 64
_MEMORY_CLIENTS = 1000


def run(bench: Bench) -> None:
  """Measures the suite."""
  digits, mnist = (TINY, TINY) if bench.quick else (DIGITS, MNIST)
  groups = [(digits, 12)] if bench.quick else [(digits, 200), (mnist, 50)]
  # First, since the allocator's peak is that of the whole process.
  _memory(bench, mnist, 8 if bench.quick else _MEMORY_CLIENTS)
  for method, bits in (("local", 32), ("quped", 1)):
    _scaling(bench, digits, method, bits)
  for task, clients in groups:
    _strategies(bench, task, clients)
  drawn = figure(bench.rows, bench.machine["processor"])
  style.save(drawn, bench.folder, f"round_time_{bench.stem}", ["png"])
  if not torch_loop.available():
    bench.note(NO_TORCH)


def _device_forms() -> list[tuple[str, int]]:
  """Names, and numbers of devices (0 for all)."""
  if jax.local_device_count() == 1:
    return [(_ONE, 1)]
  return [(_ALL, 0), (_ONE, 1)]


def _bytes_without_data(rounds: engine.Rounds, data: int) -> int:
  """Memory of the compiled round, summed over devices, without the data."""
  return rounds.round_bytes - data * rounds.simulation.layout.devices


def _memory(bench: Bench, task: Task, clients: int) -> None:
  federation = task.federation(clients)
  data = engine.tree_bytes(federation)
  memory = {}
  for name, devices in _device_forms():
    rounds = task.rounds(federation, devices=devices)
    rounds()
    used = _bytes_without_data(rounds, data)
    stats = jax.local_devices()[0].memory_stats() or {}
    memory[name] = {
      "clients": clients,
      "round_bytes_without_data": used,
      "client_state_bytes": rounds.client_bytes,
      "copies_of_state": used / rounds.client_bytes,
      "data_bytes": data,
      "allocator_peak_bytes": stats.get("peak_bytes_in_use"),
    }
  bench.derive(f"memory of a round of {task.title}, local", memory)


def _scaling(bench: Bench, task: Task, method: str, bits: int) -> None:
  counts = (4,) if bench.quick else _CLIENTS
  work = task.flops() if method == "local" else None
  contestants, ours = [], []

  def contestant(name: str, run: Any, clients: int):
    details = {"clients": clients, "series": name}
    return Contestant(
      f"{name}, {clients} clients", run, clients, work, details=details
    )

  for clients in counts:
    federation = task.federation(clients)
    for name, devices in _device_forms():
      rounds = task.rounds(
        federation, method=method, bits=(bits,), devices=devices
      )
      contestants.append(contestant(name, rounds, clients))
      ours.append((name, clients, rounds, engine.tree_bytes(federation)))
  if method == "local":
    contestants += [
      contestant(_LOOP, task.python_loop(n), n)
      for n in (counts[:1] if bench.quick else _LOOP_CLIENTS)
    ]
    if torch_loop.available():
      contestants += [
        contestant(torch_loop.NAME, task.torch_loop(n), n)
        for n in (counts[:1] if bench.quick else _TORCH_CLIENTS)
      ]
  first = _device_forms()[0][0]
  title = f"{task.title}, {method}, {describe_bits([bits])}"
  rows = bench.measure(
    title,
    "client round",
    contestants,
    sizes=task.sizes(),
    reference=f"{first}, {_FLAT_FROM} clients",
  )
  bench.derive(
    f"rounds of {title}",
    {
      f"{name}, {clients} clients": {
        "seconds_per_round": clients
        * rows[f"{name}, {clients} clients"]["seconds_min"],
        "round_bytes_per_client": _bytes_without_data(rounds, data) / clients,
        "state_bytes_per_client": rounds.client_bytes / clients,
      }
      for name, clients, rounds, data in ours
    },
  )


def _strategies(bench: Bench, task: Task, clients: int) -> None:
  federation = task.federation(clients)
  forms: list[tuple[str, dict[str, Any]]] = []
  for where, devices in _device_forms():
    for form, settings in (
      ("", {}),
      (", vmap", {"strategy": "vmap"}),
      (", chunks of 10", {"strategy": "chunks", "chunk_size": 10}),
      (", dispatch", {"strategy": "dispatch"}),
    ):
      forms.append((where + form, {"devices": devices, **settings}))
  work = task.flops()
  contestants = [
    Contestant(name, task.rounds(federation, **settings), clients, work)
    for name, settings in forms
  ]
  contestants.append(
    Contestant(_LOOP, task.python_loop(clients), clients, work)
  )
  if torch_loop.available():
    contestants.append(
      Contestant(torch_loop.NAME, task.torch_loop(clients), clients, work)
    )
  bench.measure(
    f"{task.title}, {clients} clients",
    "client round",
    contestants,
    sizes={"clients": clients, **task.sizes()},
    reference=torch_loop.NAME,
  )


def figure(rows: Sequence[Mapping[str, Any]], processor: str) -> style.Figure:
  """Plots seconds per round of local training against number of clients.

  Args:
    rows: of the suite.
    processor: on which they were measured.
  """
  series: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    name, clients = row["sizes"].get("series"), row["sizes"].get("clients")
    if name and ", local, " in row["group"]:
      point = (clients, row["seconds_min"] * clients)
      series.setdefault(name, []).append(point)
  drawn = style.figure()
  axes = drawn.subplots()
  for name, look in style.looks(list(series)).items():
    clients, seconds = zip(*series[name], strict=True)
    style.line(axes, look, clients, seconds, name)
  counts = [count for count, _ in next(iter(series.values()))]
  axes.set_xscale("log", base=2)
  axes.set_xticks(counts, [str(count) for count in counts])
  axes.set_yscale("log")
  axes.yaxis.set_major_formatter("{x:g}")
  style.label(axes, "clients", "seconds per round")
  style.legend(drawn, columns=2)
  style.title(drawn, f"Local training on {processor}")
  return drawn
