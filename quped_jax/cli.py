"""The console script `quped`, which runs one of `quped_jax.commands`."""

import argparse
import ast
import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from quped_jax import checks, commands
from quped_jax.command_line import endings
from quped_jax.version import __version__

_EPILOG = """\
`quped COMMAND --help` says what a command takes.

  quped run --preset=digits --workdir=results/run
  quped run --dataset=mnist --bits=1,2,32 --quped.lambda_p=0.3
"""


class Parser(argparse.ArgumentParser):
  """A parser whose errors are ValueErrors of one line."""

  def __init__(self, **kwargs: Any):
    super().__init__(
      allow_abbrev=False,
      conflict_handler="resolve",  # A command may have a `--help` of its own.
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **kwargs,
    )

  def options(self) -> list[str]:
    """All options that the parser knows."""
    return list(self._option_string_actions)

  def error(self, message: str) -> NoReturn:
    """Raises what is wrong with the arguments, without the usage."""
    said = message.removeprefix("argument ")
    raise ValueError(f"{said}; `{self.prog} --help` lists the options")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line; ends the process where it fails.

  Args:
    argv: the arguments, without the program's name; those of this process by
      default.
  """
  given = list(sys.argv[1:] if argv is None else argv)
  with endings.forgiving_output():
    endings.run(lambda: _run(given), traceback="--traceback" in given)


def names() -> dict[str, str]:
  """The commands, with a line on each; none of them is imported."""
  folder = pathlib.Path(commands.__path__[0])
  return {
    path.stem: _summary(path)
    for path in sorted(folder.glob("*.py"))
    if path.stem != "__init__"
  }


def _summary(path: pathlib.Path) -> str:
  """What a command's module says in `SUMMARY`."""
  (line,) = [
    ast.literal_eval(node.value)
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.Assign)
    and [ast.unparse(target) for target in node.targets] == ["SUMMARY"]
  ]
  return line


def _run(argv: list[str]) -> None:
  name, *rest = argv or ["--help"]
  if name.startswith("-"):
    _general(argv)
    return
  known = names()
  checks.choice("command", name, tuple(known))
  module = importlib.import_module(f"{commands.__name__}.{name}")
  about = f"{module.__doc__}".partition(": ")[2]
  parser = Parser(
    prog=f"quped {name}", description=about[:1].upper() + about[1:]
  )
  module.add_arguments(parser)
  parser.add_argument(
    "--traceback",
    action="store_true",
    help="show where an error comes from, and not one line alone",
  )
  args, left = parser.parse_known_args(rest)
  if hasattr(args, "settings"):
    args.settings = left
  elif left:
    word = left[0].partition("=")[0]
    near = checks.did_you_mean(word, parser.options())
    parser.error(f"{word}: no such option{near}")
  module.run(args)


def _general(argv: Sequence[str]) -> None:
  """Answers arguments without a command."""
  known = names()
  width = max(map(len, known))
  lines = [f"  {name:{width}}  {line}" for name, line in known.items()]
  parser = Parser(
    prog="quped",
    usage="quped COMMAND ...",
    description="Personalized, quantized federated learning.",
    epilog="commands:\n" + "\n".join(lines) + f"\n\n{_EPILOG}",
  )
  parser.add_argument(
    "--version", action="version", version=f"quped_jax {__version__}"
  )
  if not argv:
    argv = ["--help"]
  parser.parse_args(argv)


if __name__ == "__main__":
  main()
