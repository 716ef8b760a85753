"""The console script: its commands, what it answers without them, mistakes."""

import ast
import pathlib
import subprocess
import sys

import pytest

from quped_jax import cli
from quped_jax.version import __version__
from tests.commands.quped import in_process, mistake

COMMANDS = pathlib.Path(cli.__file__).parent / "commands"


def test_every_command_is_listed_with_its_line():
  files = {path.stem for path in COMMANDS.glob("*.py")} - {"__init__"}
  assert cli.names().keys() == files
  assert {"run", "compare", "predict", "list"} <= files
  for line in cli.names().values():
    assert line[0].islower() and not line.endswith(".") and len(line) < 70


@pytest.mark.parametrize("name", sorted(cli.names()))
def test_every_command_has_help_and_says_what_it_does(name, capsys):
  assert in_process(name, "--help") == 0
  text = capsys.readouterr().out
  assert f"quped {name}" in text and "--traceback" in text
  doc = ast.get_docstring(ast.parse((COMMANDS / f"{name}.py").read_text()))
  assert doc and doc.startswith(f"`quped {name}`: ")


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_without_a_command_the_commands_are_listed(args, capsys):
  assert in_process(*args) == 0
  text = capsys.readouterr().out
  for name, line in cli.names().items():
    assert f"  {name} " in text and line in text


def test_the_version_is_that_of_the_package(capsys):
  assert in_process("--version") == 0
  assert capsys.readouterr().out == f"quped_jax {__version__}\n"


@pytest.mark.parametrize(
  "args", [["--help"], ["--version"], ["list"], ["list", "methods"], ["rnu"]]
)
def test_what_needs_no_jax_does_not_wait_for_it(args):
  code = (
    "import sys\nfrom quped_jax import cli\n"
    f"try: cli.main({args})\nexcept SystemExit: pass\n"
    "sys.exit('jax' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, check=False
  )
  assert done.returncode == 0


@pytest.mark.slow
def test_commands_begin_without_what_extras_install():
  extras = (
    "matplotlib", "mlflow", "onnx", "onnxruntime", "pandas", "polars",
    "tensorboardX", "tensorflow_datasets", "wandb",
  )  # fmt: skip
  code = (
    "import importlib, sys\n"
    f"sys.modules.update(dict.fromkeys({extras}))\n"
    f"for name in {sorted(cli.names())}:\n"
    "  importlib.import_module(f'quped_jax.commands.{name}')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["rnu"], "command='rnu': must be one of compare, "),
    (["rnu"], "; did you mean 'run'?"),
    (["--nope"], "unrecognized arguments: --nope; `quped --help` lists"),
    (["list", "--traec"], "--traec: no such option; did you mean '--trace"),
    (["predict", "--model=m"], "the following arguments are required: --input"),
    (["run", "--workdir"], "--workdir: expected one argument; `quped run --he"),
    (["run", "--num_processes=x"], "--num_processes: invalid int value: 'x'"),
  ],
)
def test_a_mistake_is_one_line(args, message, capsys):
  assert message in mistake(capsys, *args)


def test_no_option_is_shortened(capsys):
  """Else a setting could be taken for the beginning of an option's name."""
  assert "--work: no such setting" in mistake(capsys, "run", "--work=x")


def test_a_traceback_is_shown_if_asked_for():
  with pytest.raises(ValueError, match="what='x'"):
    in_process("list", "x", "--traceback")
