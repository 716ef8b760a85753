"""A process that plays a federation whose clients' states move about.

`python -m tests.simulation.several PORT PROCESSES PROCESS FOLDER WHERE,WHERE`
prints what `play` returns; see `test_streamed.py`.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.simulation import processes
from tests import tiny

# The first four clients of nine are those of the first of two processes, and so
# is the only one of the second cohort, if each has four devices.
TRACE = """round,client
0,0
0,1
0,2
0,3
1,4
1,6
1,7
2,0
2,8
2,5
3,0
3,1
3,2
3,3
3,4
3,5
3,6
3,7
3,8
"""


def play(folder: pathlib.Path, places: list[str], devices: int) -> Any:
  """A round in each place: what comes of it, of this process's clients.

  Args:
    folder: for states, and for the trace.
    places: where clients' states are, in each of four rounds.
    devices: over how many devices clients are divided; 0 for all.
  """
  trace = folder / "trace.csv"
  trace.write_text(TRACE)

  def simulate(where):
    settings = qj.Settings(
      method="fml",
      client_types="8*mlp(8)@32, 1*mlp(12)@32",
      hidden=(8,),
      clients=9,
      rounds=4,
      steps=3,
      batch_size=8,
      participation_trace=str(trace),
      client_state=where,
      clients_per_block=0 if where == "device" else 4,
      devices=devices,
      strategy="chunks",
    )
    counts = 5, 23, 40, 64, 17, 9, 30, 12, 21
    federation = tiny.make_federation(counts)
    made = assemble(settings, federation=federation, workdir=folder)
    return made.simulation

  made = {where: simulate(where) for where in dict.fromkeys(places)}
  state, told = made[places[0]].init(0), []
  for where in places:
    state, metrics = made[where].run_rounds(state, 1)
    told.append({name: float(value) for name, value in metrics.items()})
  last = made[places[-1]]
  state = last.restore(jax.tree.map(np.array, last.export(state)))
  models = {
    x.client_id: float(
      sum(np.sum(np.abs(p)) for p in jax.tree.leaves(x.params))
    )
    for x in last.primary_models(state)
  }
  out = last.export(state)
  own = {
    int(client): [float(np.sum(np.abs(x[i]))) for x in jax.tree.leaves(states)]
    for name, states in out.clients.items()
    for i, client in enumerate(out.members[name])
  }
  return {
    "metrics": told,
    "accuracy": {
      name: values.tolist()
      for name, values in last.evaluate(state)["test"].items()
    },
    "models": [models[i] for i in sorted(models)],
    "server": [float(np.sum(np.abs(x))) for x in jax.tree.leaves(out.server)],
    "clients": {str(i): own[i] for i in sorted(own)},
    "samples": last.data_bytes,
    "told": processes.exchange([jax.process_index()]),
  }


if __name__ == "__main__":
  port, count, process = map(int, sys.argv[1:4])
  if count > 1:
    # As users may, too, who do not use the commands.
    jax.distributed.initialize(f"localhost:{port}", count, process)
  print(json.dumps(play(pathlib.Path(sys.argv[4]), sys.argv[5].split(","), 0)))
