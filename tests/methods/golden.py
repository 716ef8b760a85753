"""Numbers of two rounds of each method, which a change of its code changes.

  python -m tests.methods.golden

writes `golden.json` anew, which `test_all.py` compares with, for the methods
whose version was raised in `quped_jax/methods/registry.py`, or that are new. It
refuses numbers that changed without that; `--all` writes those as well, where
no release has had the version.
"""

import argparse
import json
import os
import pathlib
import sys

# Compiles quickly, as tests do; before JAX is used.
from tests import conftest  # noqa: F401  # isort: skip

import jax
import numpy as np

from quped_jax import methods
from tests import tiny

FILE = pathlib.Path(__file__).with_name("golden.json")
# Machines round differently: by some 1e-6 of these numbers.
TOLERANCE = 1e-4
# One test sample of all may be classified otherwise.
SAMPLE = 0.011


def read():
  """{method: {"version": its version, "numbers": {name: number}}}."""
  return json.loads(FILE.read_text()) if FILE.exists() else {}


def numbers_of(name):
  """What two rounds of the tiny federation lead to, in a few numbers."""
  made = tiny.tiny(name)
  state, found = made.state(), {}
  for round_ in (1, 2):
    state, metrics = made.simulation.run_round(state)
    found[f"loss {round_}"] = float(metrics["loss"])
  for variant, values in made.simulation.evaluate(state)["test"].items():
    found[f"accuracy {variant}"] = float(np.mean(values))
  host = tiny.to_host(state)
  for part in ("server", "clients"):
    for kind, value in _moments(getattr(host, part)).items():
      found[f"{part} {kind}"] = value
  return found


def _moments(tree):
  """Size of all values of a tree, and their sum with drawn signs."""
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  values = np.concatenate([np.zeros(1), *leaves])
  values = np.where(np.isfinite(values), values, 0.0)
  signs = np.random.default_rng(0).choice([-1.0, 1.0], len(values))
  size = float(np.linalg.norm(values))
  return {"size": size, "sum": float(signs @ values), "count": len(values)}


def changed(before, now):
  """The names of numbers that are not the same but for rounding."""
  if before.keys() != now.keys():
    return sorted(before.keys() ^ now.keys())
  return [
    name
    for name, value in now.items()
    if abs(value - before[name]) > _allowed(name, before)
  ]


def _allowed(name, numbers):
  if name.startswith("accuracy"):
    return SAMPLE
  # Signs make sums small: what they are sums of is as large as its size.
  size = numbers[f"{name.split()[0]} size"] if name.endswith("sum") else 0.0
  return TOLERANCE * max(abs(numbers[name]), size, 1e-3)


def main():
  parser = argparse.ArgumentParser(prog="python -m tests.methods.golden")
  parser.add_argument("--all", action="store_true", help="also those refused")
  everything = parser.parse_args().all
  known, refused = read(), []
  for name in tiny.METHODS:
    version = methods.METHODS[name].version
    entry = {"version": version, "numbers": numbers_of(name)}
    before = known.get(name)
    if before and before["version"] == version:
      if not changed(before["numbers"], entry["numbers"]):
        continue
      if not everything:
        refused.append(name)
        continue
    known[name] = entry
    print(f"{name}: version {version}")
  known = {name: known[name] for name in sorted(tiny.METHODS)}
  part = FILE.with_suffix(".part")
  part.write_text(json.dumps(known, indent=1) + "\n")
  os.replace(part, FILE)
  if refused:
    sys.exit(
      f"behaviour of {', '.join(refused)} changed: raise the version in "
      "quped_jax/methods/registry.py (or --all, see above)"
    )


if __name__ == "__main__":
  main()
