"""Flags and config files: a mistake in them is one line."""

import sys
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from experiments import command_line

# By the config library, which loads files in an old way.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)


@pytest.fixture
def ends(monkeypatch, capsys):
  """Returns what a program prints that parses arguments and ends."""

  def ends(*args):
    # A file would otherwise be loaded into the module of the one before.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    values: Any = flags.FlagValues()
    argv = ["program", *args]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    flags.DEFINE_string("workdir", None, "", required=True, flag_values=values)
    with pytest.raises(SystemExit) as ended:
      with command_line.one_line("configs/digits.py"):
        config_flags.DEFINE_config_file(
          "config", "configs/digits.py", flag_values=values, lock_config=True
        )
      command_line.parse(argv)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  return ends


@pytest.mark.parametrize("config", [[], ["--config=configs/digits.py"]])
@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.clients=2"], "error: --workdir: must be given"),
    (["--config.clients=1e2"], "--config.clients=1e2: must be a whole number"),
    (["--config.trim=x"], "error: --config.trim=x: must be a number"),
    (
      ["--config.deterministic=maybe"],
      "error: --config.deterministic=maybe: must be True or False",
    ),
    (["--workdir=w", "--config.bits=1,", "2"], "error: 2: must be a flag, as"),
    (["--config.clients"], "error: Missing value for flag --config.clients"),
    (["--config.quped=1"], "error: --config.quped=1: Failed to parse '1'"),
    (["--config.clients=2", "--nope=1"], "error: Unknown command line flag"),
    (["--config.cleints=2"], "no such field: cleints. Did you mean clients? "),
    (["--config.quped.nope=2"], "error: --config has no such field: nope. "),
    (["--config.quped.lambda=2"], "no such field: quped.lambda"),
  ],
)
def test_a_mistake_in_a_flag_is_one_line(ends, config, args, message):
  assert message in ends(*config, *args)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import nosuch", "fails at line 1: ModuleNotFoundError: No module"),
    ("x = 1 / 0", "fails at line 1: ZeroDivisionError: "),
    ("\nx = None.nope", "fails at line 2: AttributeError: "),
    ("x = {}['a']", "fails at line 1: KeyError: 'a'"),
    ("def get_config(", "fails at line 1: SyntaxError: "),
    ("def get_config():\n  return {}['a']", "fails at line 2: KeyError: 'a'"),
    ("def get_config():\n  import nosuch", "fails at line 2: ModuleNotFound"),
    ("def get_config():\n  raise ValueError(3)", "fails at line 2: ValueError"),
    ("x = 3", "must define get_config()"),
    ("def get_config():\n  return 3", "get_config() must return a ConfigDict"),
  ],
)
def test_a_config_file_that_fails_is_one_line(ends, tmp_path, text, message):
  path = tmp_path / "mine.py"
  path.write_text(text)
  line = ends(f"--config={path}", "--workdir=w")
  assert line.startswith(f"error: --config={path}: {message}")


def test_a_folder_without_configs_is_answered_with_ours(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["federated", "--config=/dev/null"])
  with pytest.raises(SystemExit):
    command_line.define_config("configs/digits.py")
  assert "configs/digits.py" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--config", "--config.x"])
def test_a_config_in_the_home_folder_is_found(flag, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  given = [f"{flag}=~/a.py:b", "--workdir=~/run"]
  expanded = "/home/me/a.py:b" if flag == "--config" else "~/a.py:b"
  assert command_line.with_homes(given) == [
    f"{flag}={expanded}",
    "--workdir=~/run",
  ]


@pytest.mark.parametrize("flag", ["--config.kinds", "--config.base.kinds"])
def test_a_former_name_of_a_setting_is_answered_with_the_present_one(
  flag, monkeypatch, capsys
):
  monkeypatch.setattr(sys, "argv", ["federated", f"{flag}=3*mlp@1"])
  with pytest.raises(SystemExit) as ended:
    command_line.define_config("configs/digits.py")
  assert ended.value.code == 2
  line = f"error: {flag}: is called client_types now\n"
  assert capsys.readouterr().err == line


def test_of_a_field_that_is_given_twice_the_last_counts():
  given = ["x", "--config.bits=1", "--a", "--config.bits=32", "--a"]
  assert command_line.last_of_each(given) == [
    "x",
    "--a",
    "--config.bits=32",
    "--a",
  ]
