"""Measures how fast the library is, alongside other ways to do the same.

python -m experiments.benchmark \
  --suite=conv,step,clients,precision,methods,uneven --output=results/benchmark

| suite | compared |
| --- | --- |
| conv | CNN1 under SGD and single convolutions: ours, native, PyTorch |
| step | QuPeD's step and SGD's; network passes; work on the weights |
| clients | rounds of 16 to 4096 clients, Python and PyTorch loops; memory |
| precision | bfloat16 and float32 |
| methods | rounds of all methods; mixed and uniform bits |
| uneven | several networks together and alone; states on the host |

Each suite in `experiments/benchmarks` says exactly what it measures. A suite
prints tables and leaves `SUITE_DEVICE.json`: versions, the machine with the
rates at which it multiplies matrices and copies, and a row per contestant with
the seconds that one unit of work takes. The contestants of a group take turns,
and only ratios within a group are meaningful. `--quick` makes everything tiny,
to check that it works.

The PyTorch baseline needs the extra `bench` (see setup.cfg).
"""

from absl import app, flags

from experiments import common
from experiments.benchmarks import (
  clients,
  conv,
  machine,
  methods,
  precision,
  step,
  uneven,
)
from experiments.benchmarks.bench import Bench
from quped_jax import paths

SUITES = {
  "conv": conv.run,
  "step": step.run,
  "clients": clients.run,
  "precision": precision.run,
  "methods": methods.run,
  "uneven": uneven.run,
}

_SUITE = flags.DEFINE_list("suite", list(SUITES), "What to measure.")
_OUTPUT = flags.DEFINE_string(
  "output", "results/benchmark", "Folder for the results."
)
_REPETITIONS = flags.DEFINE_integer(
  "repetitions",
  7,
  "Repetitions of a measurement, fewer if slow.",
  lower_bound=1,
)
_QUICK = flags.DEFINE_bool(
  "quick", False, "Tiny sizes and two repetitions, to check that all runs."
)


def main(argv: list[str]) -> None:
  """Measures the suites, one after the other."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")

  def run():
    for name in _SUITE.value:
      if name not in SUITES:
        raise ValueError(f"suite={name!r}: must be one of {', '.join(SUITES)}")
    folder = paths.given("output", _OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    described = machine.describe(_QUICK.value)
    console = common.make_console()
    for name in _SUITE.value:
      bench = Bench(
        name,
        described,
        folder,
        repetitions=_REPETITIONS.value,
        quick=_QUICK.value,
        console=console,
      )
      SUITES[name](bench)
      console.print(f"Results: {bench.write()}", highlight=False)

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
