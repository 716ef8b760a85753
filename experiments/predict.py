"""Runs a packed model on samples.

python -m experiments.predict --input=samples.npy \
  --model=/tmp/run/models/client_00012.safetensors --output=logits.npy

The samples are an array `[samples, ...]`, as in the model's dataset before they
are normalised. Prints a line for each: its class; or with --targets=values its
numbers, and with --targets=multi_label a 0 or 1 for each label.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

import quped_jax as qj
from experiments import common
from quped_jax import paths
from quped_jax.data import targets
from quped_jax.data.npy import load_npy

_MODEL = flags.DEFINE_string(
  "model", None, "Packed model file, see docs/model-files.md.", required=True
)
_INPUT = flags.DEFINE_string(
  "input", None, ".npy file of samples, [samples, ...].", required=True
)
_OUTPUT = flags.DEFINE_string(
  "output", None, ".npy file for the logits, [samples, classes]."
)
_TARGETS = flags.DEFINE_enum(
  "targets", "classes", targets.KINDS, "What the model predicts."
)


def main(argv: list[str]) -> None:
  """Runs the model of the command line."""
  del argv  # The command's name alone.

  def run():
    output = _OUTPUT.value
    if output is not None:
      output = paths.given("output", output)
      _check_output(output, model=_MODEL.value, input=_INPUT.value)
    packed = qj.load_packed(_MODEL.value, field="model")
    logits = packed.predict(load_npy("input", _INPUT.value, mapped=True))
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
      raise ValueError(
        f"input={_INPUT.value!r}: must be samples for which the model has "
        f"finite logits; {broken.sum()} of {len(logits)} are not"
      )
    if output is not None:
      _save(output, logits)
    sys.stdout.writelines(f"{line}\n" for line in _lines(logits))
    # Here they are the result.
    common.check_output()

  common.run_main(run)


def _lines(logits: np.ndarray) -> Iterator[str]:
  """What is predicted for each sample, as text."""
  if _TARGETS.value == "classes":
    yield from map(str, logits.argmax(axis=1))
    return
  if _TARGETS.value == "multi_label":
    logits = (logits > 0).astype(int)
  for row in logits:
    yield " ".join(f"{x:.6g}" for x in row)


def _check_output(output: pathlib.Path, **inputs: str) -> None:
  """Raises a ValueError if the output would replace a file that is read.

  Args:
    output: path of a file.
    **inputs: paths of files, by the names of their flags.
  """
  for field, path in inputs.items():
    # Also where a link or another name leads there.
    with contextlib.suppress(OSError):
      if os.path.samefile(output, paths.given(field, path)):
        raise ValueError(
          f"output={str(output)!r}: must be another file than "
          f"{field}={path!r}, which it would replace"
        )


def _save(path: pathlib.Path, logits: np.ndarray) -> None:
  try:
    with paths.replacing(path) as file:
      np.save(file, logits, allow_pickle=False)
  except OSError as error:
    raise ValueError(
      f"output={str(path)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error


if __name__ == "__main__":
  common.run_app(main)
