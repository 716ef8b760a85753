"""What does a setting do? Some of its values side by side.

python examples/try_values.py strength 0 1e-4 1e-3 1e-2
python examples/try_values.py quped.lambda_p 0 0.25 0.5 0.75 1

"as trained" are the clients' models in training, "at levels" the same with
every weight at its nearest level, which is what they store; then the global
model. All of it on test data: it shows what a setting does, and is not what to
choose settings by.
"""

import argparse

import numpy as np

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("setting")
parser.add_argument("values", type=float, nargs="+")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--seeds", type=int, default=3)
arguments = parser.parse_args()

settings = qj.Settings(
  clients=20,
  bits=(1,),
  method="quped",
  rounds=arguments.rounds,
  eval_every=arguments.rounds,
)
# Runs that differ in numbers alone are compiled once.
runs = qj.sweep(
  settings,
  {arguments.setting: arguments.values, "seed": range(arguments.seeds)},
  quiet=True,
)

print(f"{arguments.setting:>16} | as trained | at levels | global")
for value in arguments.values:
  same = [
    run.summary["accuracy"]
    for run in runs
    if run.changes[arguments.setting] == value and run.summary
  ]
  shown = [
    np.mean([accuracy[variant]["mean"] for accuracy in same])
    for variant in ("personalized", "quantized", "global")
  ]
  trained, stored, shared = (f"{100 * score:.1f} %" for score in shown)
  print(f"{value:16g} | {trained:>10} | {stored:>9} | {shared:>6}")
