"""Measures what the tests catch: changes code and checks whether they fail.

  python -m tests.mutants run --results whole.jsonl
  python -m tests.mutants run --results thin.jsonl --pytest_args='-m "not slow"'
  python -m tests.mutants report thin.jsonl whole.jsonl

Each mutant of `frozen.json` is one small change; the tests that mirror the
changed file should fail on it. An interrupted run resumes where it stopped.

When code changes, `test_mutants.py` names the mutants that are no longer found.
`moved.json` says what became of them: `renamed` maps old identifiers to new
ones, in all mutants; `restated` maps the id of a mutant to those of its fields
that changed otherwise. `equivalent.json` gives the reason for mutants that no
test could kill. `choose` wrote `frozen.json`, once and for all.
"""

import argparse
import json
import pathlib
import signal
import sys

from tests.mutants import address, choose, report, run

_ROOT = pathlib.Path(__file__).parents[2]


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m tests.mutants",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  one = commands.add_parser("choose", help="draw mutants anew")
  one.add_argument("--seed", type=int, default=0)
  one.add_argument("--output", type=pathlib.Path, required=True)
  one = commands.add_parser("run", help="run the tests on every mutant")
  one.add_argument("--results", type=pathlib.Path, required=True)
  one.add_argument(
    "--tree",
    type=pathlib.Path,
    default=_ROOT,
    help="another checkout, whose code and tests are used",
  )
  one.add_argument("--workers", type=int, default=2)
  one.add_argument("--packages", nargs="+", choices=choose.PACKAGES)
  one.add_argument("--ids", nargs="+")
  one.add_argument("--pytest_args", default="")
  one.add_argument(
    "--work",
    type=pathlib.Path,
    default=_ROOT / ".cache" / "mutants",
    help="folder of copies and compiled programs, of one run at a time",
  )
  one = commands.add_parser("report", help="print what was killed")
  one.add_argument("results", type=pathlib.Path)
  one.add_argument("others", type=pathlib.Path, nargs="?")
  return parser


def main() -> None:
  """The command line."""
  # Ends the tests too, as an interruption does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
  parser = _parser()
  args = parser.parse_args()
  if args.command == "choose":
    chosen = choose.choose(_ROOT, args.seed)
    records = [mutant._asdict() for mutant in chosen]
    args.output.write_text(json.dumps(records, indent=1) + "\n")
  elif args.command == "run":
    mutants = address.frozen()
    unknown = set(args.ids or ()) - {mutant.id for mutant in mutants}
    if unknown:
      parser.error(f"--ids: no such mutants: {', '.join(sorted(unknown))}")
    run.run(
      args.tree,
      args.results,
      mutants=[
        mutant
        for mutant in mutants
        if mutant.package in (args.packages or choose.PACKAGES)
        and (args.ids is None or mutant.id in args.ids)
      ],
      workers=args.workers,
      pytest_args=args.pytest_args,
      work=args.work,
    )
  else:
    print(report.table(args.results))
    if args.others:
      print()
      print(report.comparison(args.results, args.others))


if __name__ == "__main__":
  main()
