"""The table of all methods in docs/methods.md, made from their code.

python -m experiments.method_table            # prints it
python -m experiments.method_table --write    # puts it into the page

What a method is and needs is found out by building it, see
`quped_jax/experiment/method_facts.py`.
"""

import pathlib
from collections.abc import Iterable

from absl import flags

from experiments import common
from quped_jax import paths
from quped_jax.experiment.method_facts import Facts, facts
from quped_jax.methods.registry import BUILT_IN

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN = "<!-- Made by `python -m experiments.method_table --write`. -->"
END = "<!-- The end of what is made. -->"

_COLUMNS = (
  "`method`", "idea", "down", "up", "models", "networks", "public set",
  "quantized", "robust", "clipped", "private", "compressed",
)  # fmt: skip

_WRITE = flags.DEFINE_bool("write", False, "Put the table into the page.")


def table(rows: Iterable[Facts]) -> str:
  """A table in Markdown, a row for each method."""
  lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_row, rows)]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(found: Facts) -> tuple[str, ...]:
  models = [name for name in found.variants if name != "quantized"]
  return (
    f"`{found.name}`",
    found.idea,
    _travels(found.down, found.size_down),
    _travels(found.up, found.size_up),
    ", ".join(models),
    "any" if found.networks else "one",
    found.public,
    _yes(found.quantized),
    _yes(found.robust),
    _yes(found.clipped),
    _yes(found.private),
    _yes(found.compressed),
  )


def _travels(names: tuple[str, ...], models: float) -> str:
  """What travels, and how large it is if it is not as large as a model."""
  said = ", ".join(names)
  size = f"{models:.2g}"
  return f"{said} ({size})" if names and size != "1" else said


def _yes(value: bool) -> str:
  return "yes" if value else ""


def put_into(page: str, made: str) -> str:
  """The page with another table between the marks.

  Raises:
    ValueError: a page without the marks.
  """
  before, begin, rest = page.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f"page: must have the lines {BEGIN!r} and {END!r}")
  return f"{before}{begin}\n\n{made}\n{end}{after}"


def main(argv: list[str]) -> None:
  """Prints the table, or writes it."""
  del argv  # The command's name alone.

  def run():
    made = table(facts(name) for name in sorted(BUILT_IN))
    if not _WRITE.value:
      print(made, end="")
      return
    paths.replace_text(PAGE, put_into(PAGE.read_text(), made))

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
