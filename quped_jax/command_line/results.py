"""What the commands print of results."""

from typing import Any

import rich.console

from quped_jax.experiment import output, scores
from quped_jax.quantization import codebook

# In characters, for tables that are not printed on a terminal.
_WIDTH = 160


def make_console() -> rich.console.Console:
  """A console that is wide enough for tables."""
  console = output.forgive()
  if not console.is_terminal:
    console.width = _WIDTH
  return console


def print_summary(summary: dict[str, Any]) -> None:
  """Prints the score after the last round, variant by variant."""
  score = scores.of_summary(summary)
  print(
    f"{summary['method']} on {summary['dataset']}, {summary['model']}, "
    f"{codebook.describe_bits(summary['bits'])}, {summary['clients']} clients, "
    f"round {summary['rounds']}:"
  )
  for name, spread in summary[score.name].items():
    print(
      f"  {name:12s} {score.text(spread['mean']):>7s}  "
      f"(worst client {score.text(spread['worst'])}, "
      f"10th percentile {score.text(spread['p10'])})"
    )
  if summary["privacy"]:
    print(
      f"private: epsilon {summary['privacy']['epsilon']:.3g} at delta "
      f"{summary['privacy']['delta']:g}, by client"
    )
  if len(summary["client_types"]) < 2:
    return
  variant = summary["primary_variant"]
  print(f"by client type, {variant}:")
  for name, client_type in summary["client_types"].items():
    spread = client_type[score.name][variant]
    if spread:
      print(
        f"  {name:20s} {client_type['clients']:5d} clients  "
        f"{client_type['model_bytes'] / 1000:8.1f} KB  "
        f"{score.text(spread['mean']):>7s}"
      )
