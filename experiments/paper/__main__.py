"""The tables of docs/RESULTS.md.

python -m experiments.paper                  # lists them, and what is done
python -m experiments.paper --table=b_femnist --variant=small --minutes=60
python -m experiments.paper --write          # puts all into the page

The second runs what is missing of a table, the most informative cells first,
and stops in time; called again it goes on. What is found is kept in
experiments/results/paper, in a folder for each table, variant and device.
"""

import pathlib

from absl import flags

from experiments import common
from experiments.benchmarks import machine
from experiments.paper import catalog, page, work
from experiments.paper.records import Store
from quped_jax import checks, paths
from quped_jax.experiment import output

_TABLE = flags.DEFINE_string("table", "", "Name of the table; '' lists all.")
_VARIANT = flags.DEFINE_enum(
  "variant", "small", catalog.VARIANTS, "Which of its variants."
)
_MINUTES = flags.DEFINE_float(
  "minutes", 0.0, "For how long it may run; 0 for as long as it takes."
)
_RESULTS = flags.DEFINE_string(
  "results", "experiments/results/paper", "Folder of what is found."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", "results/paper", "Folder of runs that are under way."
)
_WRITE = flags.DEFINE_bool("write", False, "Put what was found into the page.")


def main(argv: list[str]) -> None:
  """Runs, lists or writes what the flags say."""
  del argv  # The command's name alone.

  def run():
    results = paths.given("results", _RESULTS.value)
    if _WRITE.value:
      page.write(results)
    elif _TABLE.value:
      _run(results)
    else:
      output.say(page.outlook(results))

  common.run_main(run)


def _run(results: pathlib.Path) -> None:
  checks.not_negative("minutes", _MINUTES.value)
  table = catalog.get(_TABLE.value, _VARIANT.value)
  device = machine.device_name()
  store = Store(results / table.folder / device)
  workdir = paths.given("workdir", _WORKDIR.value) / table.folder / device
  try:
    with work.within(_MINUTES.value):
      work.carry_out(table, store, workdir)
  except work.OutOfTimeError:
    output.say(f"after {_MINUTES.value:g} minutes; the same command goes on")
  output.say(page.text(table, store))


if __name__ == "__main__":
  common.run_app(main)
