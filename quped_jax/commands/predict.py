"""`quped predict`: runs a packed model on samples.

The samples are an array `[samples, ...]`, as in the model's dataset before they
are normalised. Prints a line for each: its class; or with targets "values" its
numbers, and with "multi_label" a 0 or 1 for each label.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

import quped_jax as qj
from quped_jax import paths
from quped_jax.command_line import endings, startup
from quped_jax.data import targets
from quped_jax.data.npy import load_npy

SUMMARY = "run a packed model on samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument(
    "--model", metavar="FILE", required=True, help="packed model file"
  )
  parser.add_argument(
    "--input",
    metavar="FILE",
    required=True,
    help=".npy file of samples, [samples, ...], as before they are normalised",
  )
  parser.add_argument(
    "--output", metavar="FILE", help=".npy file for the logits"
  )
  parser.add_argument(
    "--targets",
    metavar="KIND",
    default="classes",
    choices=targets.KINDS,
    help=f"what the model predicts: {', '.join(targets.KINDS)}",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the model of the command line."""
  startup.prepare()
  predict(args.model, args.input, args.output, args.targets)


def predict(
  model: str, samples: str, output: str | None, kind: str = "classes"
) -> None:
  """Prints what a packed model predicts, a line for each sample.

  Args:
    model: path of a packed model file.
    samples: path of a .npy file.
    output: path of a .npy file for the logits; None for no file.
    kind: of the targets.

  Raises:
    ValueError: files that cannot be read, or an output that would replace one.
    OSError: the standard output could not take all lines.
  """
  path = None
  if output is not None:
    path = paths.given("output", output)
    paths.check_other("output", path, model=model, input=samples)
  packed = qj.load_packed(model, field="model")
  logits = packed.predict(_load(samples))
  broken = ~np.isfinite(logits).all(axis=1)
  if broken.any():
    raise ValueError(
      f"input={samples!r}: must be samples for which the model has finite "
      f"logits; {broken.sum()} of {len(logits)} are not"
    )
  if path is not None:
    _save(path, logits)
  sys.stdout.writelines(f"{line}\n" for line in _lines(logits, kind))
  # Here they are the result.
  endings.check_output()


def _lines(logits: np.ndarray, kind: str) -> Iterator[str]:
  """What is predicted for each sample, as text."""
  if kind == "classes":
    yield from map(str, logits.argmax(axis=1))
    return
  if kind == "multi_label":
    logits = (logits > 0).astype(int)
  for row in logits:
    yield " ".join(f"{x:.6g}" for x in row)


def _load(samples: str) -> np.ndarray:
  try:
    return load_npy("input", samples, mapped=True)
  except FileNotFoundError as error:
    raise ValueError(
      f"input={samples!r}: must be a .npy file of numbers ({error.strerror})"
    ) from error


def _save(path: pathlib.Path, logits: np.ndarray) -> None:
  try:
    with paths.replacing(path) as file:
      np.save(file, logits, allow_pickle=False)
  except OSError as error:
    raise ValueError(
      f"output={str(path)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error
