"""QuPeD, local training and FedAvg on handwritten digits, in two minutes.

python -m experiments.demo --workdir=/tmp/demo
"""

import rich.table
from absl import flags

import quped_jax as qj
from configs import digits
from experiments import command_line, common
from quped_jax import paths
from quped_jax.experiment import blocks, output, scores
from quped_jax.experiment.figures import run_data, style

_WORKDIR = flags.DEFINE_string(
  "workdir", "results/demo", "Folder for the results."
)
_RESTART = command_line.define_restart()
_ROUNDS = flags.DEFINE_integer("rounds", 40, "Rounds of every method.")

# name: (title, changes of the settings in configs/digits.py)
_RUNS = {
  "local": ("local, 32 bits", {"method": "local", "bits": (32,)}),
  "fedavg": ("FedAvg, 32 bits", {"method": "fedavg", "bits": (32,)}),
  "quped_1bit": ("QuPeD, 1 bit", {"method": "quped", "bits": (1,)}),
  "quped_mixed": (
    "QuPeD, mixed bits",
    {"method": "quped", "bits": (1, 2, 3, 4, 32)},
  ),
}


def _percent(value: float | None) -> str:
  return "" if value is None else f"{100 * value:.1f}"


def _table(results: dict[str, qj.Result]) -> rich.table.Table:
  """A row per run: accuracy over clients, and the cost of a round."""
  table = blocks.make_table(
    "Accuracy on each client's own test data, mean over 40 clients, %"
  )
  table.caption = "mixed bits: clients of 1, 2, 3, 4 and 32 bits in turn"
  table.add_column("method")
  for name in ("personalized", "quantized", "global", "worst"):
    table.add_column(name, justify="right")
  table.add_column("KB up", justify="right")
  table.add_column("s/round", justify="right")
  for name, result in results.items():
    summary = result.summary
    accuracy = summary["accuracy"]
    primary_variant = accuracy[summary["primary_variant"]]
    # At full precision the quantized model is the personalized one.
    shown = dict(accuracy)
    if summary["bits"] == [32]:
      shown.pop("quantized", None)
    table.add_row(
      _RUNS[name][0],
      *(
        _percent(shown.get(variant, {}).get("mean"))
        for variant in ("personalized", "quantized", "global")
      ),
      _percent(primary_variant["worst"]),
      f"{summary['bytes_up'] / 1000:.0f}",
      f"{summary['timing']['seconds_per_round']:.2g}",
    )
  return table


def _figure(results: dict[str, qj.Result]) -> style.Figure:
  """Plots accuracy against rounds, of the model each method would deploy.

  All rounds above; below, larger, those of the second half, in which the
  methods are close to each other.
  """
  curves = {
    _RUNS[name][0]: run_data.of_result(result).curve(
      result.simulation.primary_variant
    )
    for name, result in results.items()
  }
  figure = style.figure(height=3.6)
  for axes, begin in zip(figure.subplots(2, 1), (0.0, 0.5), strict=True):
    shown = []
    for (name, look), (rounds, accuracy) in zip(
      style.looks(list(curves)).items(), curves.values(), strict=True
    ):
      late = rounds >= begin * rounds[-1]
      style.line(axes, look, rounds[late], accuracy[late], name)
      shown.append(accuracy[late])
    style.label(axes, "round", "accuracy, mean over clients, %")
    style.fit_score(axes, scores.ACCURACY, shown)
    style.whole_numbers(axes)
  # The names of both axes' curves are the same.
  style.legend(figure, columns=2, axes=figure.axes[0])
  return figure


def main(argv: list[str]) -> None:
  """Runs all methods, one after the other, and prints one table."""
  del argv  # The command's name alone.

  def run():
    folder = paths.given("workdir", _WORKDIR.value)
    results = {}
    for name, (title, changes) in _RUNS.items():
      config = digits.get_config()
      config.update({**changes, "rounds": _ROUNDS.value})
      display = qj.Display(label=title, lines=4)
      results[name] = qj.run(
        common.get_settings(config),
        folder / name,
        display=display,
        resume=not _RESTART.value,
      )
    blocks.print_table(output.forgive(), _table(results))
    drawn = style.save(_figure(results), folder, "accuracy")
    print(f"Figures: {', '.join(map(str, drawn))}")

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
