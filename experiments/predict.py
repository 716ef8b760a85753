"""Runs a packed model on samples.

python -m experiments.predict --input=samples.npy \
  --model=/tmp/run/models/client_00012.safetensors --output=logits.npy

The samples are an array `[samples, ...]`, as in the model's dataset before they
are normalised. Prints a line for each: its class; or with --targets=values its
numbers, and with --targets=multi_label a 0 or 1 for each label.
"""

from absl import flags

from experiments import common
from quped_jax.commands.predict import predict
from quped_jax.data import targets

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
    predict(_MODEL.value, _INPUT.value, _OUTPUT.value, _TARGETS.value)

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
