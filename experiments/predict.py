"""Runs a packed model on samples.

python -m experiments.predict --input=samples.npy \
  --model=/tmp/run/models/client_00012.safetensors --output=logits.npy

The samples are an array `[samples, ...]`, as in the model's dataset before they
are normalised. Prints the class of each, one per line.
"""

import contextlib
import os
import pathlib
import sys

import numpy as np
from absl import flags

import quped_jax as qj
from experiments import common
from quped_jax import paths
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
    sys.stdout.writelines(f"{label}\n" for label in logits.argmax(axis=1))
    # Here they are the result.
    common.check_output()

  common.run_main(run)


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
