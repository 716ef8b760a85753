"""`quped report`: a page of HTML on runs, sweeps and comparisons.

The page is one file, which needs no network: how good each run is, what it
costs, its figures, clients, settings, and the command that reproduces it.
Several runs are shown side by side.
"""

import argparse

from quped_jax.experiment.report.write import write_report

SUMMARY = "write a report on runs or comparisons as one HTML file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument(
    "workdirs",
    nargs="+",
    metavar="WORKDIR",
    help="work directory of a run, a sweep or a comparison",
  )
  parser.add_argument(
    "--output",
    metavar="FILE",
    help="the file to write; by default report.html, in WORKDIR if there is "
    "one, and here if there are several",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the report of the command line."""
  print(f"The report is in {write_report(args.workdirs, args.output)}")
