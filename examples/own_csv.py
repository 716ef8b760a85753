"""Bring your CSV: one column is the label, another one says whose a row is.

python examples/own_csv.py measurements.csv label client

It is read by pandas (pip install pandas). All other columns are features, which
must be numbers. Without arguments it tries itself on a small file that it
writes.
"""

import pathlib
import sys

import numpy as np
import pandas as pd

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.


def write_example(path: str) -> None:
  """Six people, whose two kinds of samples differ in their features."""
  rng = np.random.default_rng(0)
  lines = ["length,width,height,kind,person"]
  for person in ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn"):
    for kind, centre in (("small", 1.0), ("large", 2.0)):
      for sample in rng.normal(centre, 0.4, (20, 3)).round(3):
        lines.append(",".join(map(str, [*sample, kind, person])))
  pathlib.Path(path).write_text("\n".join(lines) + "\n")


arguments = sys.argv[1:] or ["example.csv", "kind", "person"]
if not sys.argv[1:]:
  write_example(arguments[0])
path, label, client = arguments

# Each feature with mean 0 and size 1, which is where networks train best.
data = qj.from_dataframe(pd.read_csv(path), label, client, standardize=True)
federation = qj.make_federation(data)  # A client of each id in that column.

settings = qj.Settings(
  clients=federation.num_clients, bits=(2,), rounds=5, steps=10
)
result = qj.run(settings, federation=federation)
for names, row in zip(federation.groups or (), result.clients, strict=True):
  print(*names, f"{100 * row['quantized']:.0f} %")
