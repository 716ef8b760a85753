"""Trains one quantized model on a whole dataset (Algorithm 1).

python -m experiments.centralized --config=configs/centralized.py:mnist \
  --workdir=/tmp/run --config.bits=2

The whole dataset belongs to a single client, which trains locally; a round is
an epoch. --config.bits=32 trains at full precision, and then says, and leaves
in one_shot.json, how well its model does when it is quantized once, without
training. --config.warm_start=FILE starts a quantized run from the
model.safetensors that such a run leaves.
"""

import json

from absl import flags

import quped_jax as qj
from experiments import command_line, common, one_shot
from quped_jax import paths
from quped_jax.command_line import results

_CONFIG = command_line.define_config("configs/centralized.py:digits")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results.", required=True
)
_RESTART = command_line.define_restart()


def main(argv: list[str]) -> None:
  """Runs the settings of the command line."""
  del argv  # The command's name alone.

  def run():
    settings = common.get_settings(_CONFIG.value)
    for field, only in (("clients", 1), ("method", "local")):
      value = getattr(settings, field)
      if value != only:
        raise ValueError(
          f"{field}={value!r}: must be {only!r} for centralized training; "
          "experiments.federated trains others"
        )
    path = paths.given("workdir", _WORKDIR.value) / "model.safetensors"
    # Whatever ends the new run, the old model never passes for its.
    old = path.with_suffix(".old")
    if _RESTART.value and path.exists():
      path.replace(old)
    try:
      result = qj.run(settings, _WORKDIR.value, resume=not _RESTART.value)
    except ValueError:  # It was refused, and nothing is replaced.
      if old.exists():
        old.replace(path)
      raise
    old.unlink(missing_ok=True)
    learner = qj.client_state(result.state, 0)
    trained = qj.current(learner)
    qj.save_weights(path, *trained)
    results.print_summary(result.summary)
    if not settings.quantized:
      found = one_shot.accuracies(settings, *trained)
      text = json.dumps(found, indent=2) + "\n"
      paths.replace_text(path.with_name("one_shot.json"), text)
      print(one_shot.table(found))
    print(f"Results are in {_WORKDIR.value}")

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
