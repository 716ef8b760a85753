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
| accelerator | what matters on a GPU, most important first, in a given time |

Each suite in `experiments/benchmarks` says exactly what it measures. A suite
prints tables and leaves `SUITE_DEVICE.json`: versions, the machine with the
rates at which it multiplies matrices and copies, and a row per contestant with
the seconds that one unit of work takes. The contestants of a group take turns,
and only ratios within a group are meaningful. `--quick` makes everything tiny,
to check that it works.

Suite `accelerator` stands alone, and works otherwise: see
`experiments/benchmarks/README.md`.

  python -m experiments.benchmark --suite=accelerator --minutes=4

The PyTorch baseline needs the extra `bench` (see setup.cfg).
"""

import pathlib
import re

from absl import flags

from experiments import common
from experiments.benchmarks import (
  clients,
  conv,
  machine,
  methods,
  precision,
  step,
  timed,
  uneven,
)
from experiments.benchmarks.bench import Bench
from quped_jax import paths
from quped_jax.command_line import results

SUITES = {
  "conv": conv.run,
  "step": step.run,
  "clients": clients.run,
  "precision": precision.run,
  "methods": methods.run,
  "uneven": uneven.run,
}

# Is measured within a given time, in processes of its own.
_ACCELERATOR = "accelerator"

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
_MINUTES = flags.DEFINE_float(
  "minutes",
  4.0,
  "Of suite accelerator: when it ends, in minutes since the command began.",
  lower_bound=0.0,
)
_AGAINST = flags.DEFINE_string(
  "against",
  None,
  "Of suite accelerator: another checkout, whose library is measured too.",
)
_ROWS = flags.DEFINE_string(
  "rows",
  "",
  "Of suite accelerator: a regular expression; only rows that have it in "
  "'GROUP: NAME' are measured.",
)


def _check() -> None:
  names = (*SUITES, _ACCELERATOR)
  for name in _SUITE.value:
    if name not in names:
      raise ValueError(f"suite={name!r}: must be one of {', '.join(names)}")
  alone = _SUITE.value == [_ACCELERATOR]
  if _ACCELERATOR in _SUITE.value and not alone:
    raise ValueError(
      f"suite={','.join(_SUITE.value)!r}: must be {_ACCELERATOR!r} alone, or "
      "other suites"
    )
  if _AGAINST.value is not None and not alone:
    raise ValueError(
      f"against={_AGAINST.value!r}: must be left out, but with "
      f"--suite={_ACCELERATOR}"
    )
  try:
    re.compile(_ROWS.value)
  except re.error as error:
    raise ValueError(
      f"rows={_ROWS.value!r}: must be a regular expression: {error}"
    ) from None


def _against() -> pathlib.Path | None:
  if _AGAINST.value is None:
    return None
  checkout = paths.given("against", _AGAINST.value).resolve()
  if not (checkout / "quped_jax" / "__init__.py").is_file():
    raise ValueError(
      f"against={_AGAINST.value!r}: must be a checkout, a folder with "
      "quped_jax/__init__.py"
    )
  return checkout


def main(argv: list[str]) -> None:
  """Measures the suites, one after the other."""
  del argv  # The command's name alone.

  def run():
    _check()
    other = _against()
    folder = paths.given("output", _OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    console = results.make_console()
    if _SUITE.value == [_ACCELERATOR]:
      shown = timed.run(
        folder,
        console,
        minutes=_MINUTES.value,
        quick=_QUICK.value,
        against=other,
        only=_ROWS.value,
      )
      shown.say(f"Results: {shown.lines} and {shown.table.name}")
      return
    described = machine.describe(_QUICK.value)
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
