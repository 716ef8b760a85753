"""Config files in Python, JSON and TOML, and what is said of wrong ones."""

import json
import re

import pytest

import quped_jax as qj
from quped_jax.command_line import config_files


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("a.json", '{"bits": [1, 2], "quped": {"lambda_p": 0.3}}'),
    ("a.toml", "bits = [1, 2]\n[quped]\nlambda_p = 0.3\n"),
    ("a.py", "def get_config():\n  return {'bits': (1, 2), 'quped': "
             "{'lambda_p': 0.3}}"),
    ("a.py", "import quped_jax as qj\ndef get_config():\n"
             "  return qj.Settings(bits=(1, 2), quped={'lambda_p': 0.3})"),
    ("a.py", "from ml_collections import ConfigDict\ndef get_config():\n"
             "  return ConfigDict({'bits': (1, 2), 'quped': {'lambda_p': 0.3}}"
             ")"),
  ],
)  # fmt: skip
def test_a_file_gives_settings(name, text, tmp_path):
  (tmp_path / name).write_text(text)
  found = config_files.load(str(tmp_path / name))
  expected = qj.Settings(bits=(1, 2), quped={"lambda_p": 0.3})
  assert qj.Settings.from_dict(found).to_dict() == expected.to_dict()


def test_the_config_that_a_run_leaves_is_one(tmp_path):
  settings = qj.Settings(bits=(1, 2), quped={"lambda_p": 0.3}, clients=3)
  (tmp_path / "config.json").write_text(json.dumps(settings.to_dict()))
  found = config_files.load(str(tmp_path / "config.json"))
  assert qj.Settings.from_dict(found).to_dict() == settings.to_dict()


def test_a_variant_and_the_current_folder_are_given_to_python(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine_to_import.py").write_text("STEPS = 7\n")
  (tmp_path / "a:b.py").write_text(
    "import mine_to_import\ndef get_config(name='none'):\n"
    "  return {'dataset': name, 'steps': mine_to_import.STEPS}\n"
  )
  assert config_files.load("a:b.py") == {"dataset": "none", "steps": 7}
  assert config_files.load("a:b.py:x") == {"dataset": "x", "steps": 7}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import nosuch", "fails at line 1: ModuleNotFoundError: No module"),
    ("x = 1 / 0", "fails at line 1: ZeroDivisionError: "),
    ("def get_config(", "fails at line 1: SyntaxError: "),
    ("def get_config():\n  return {}['a']", "fails at line 2: KeyError: 'a'"),
    ("x = 3", "must define get_config()"),
    (
      "def get_config():\n  return 3",
      "get_config() must return a dict, or what",
    ),
    (
      "def get_config(a):\n  return {}",
      "get_config() missing 1 required posit",
    ),
  ],
)
def test_a_file_in_python_that_fails_is_named(text, message, tmp_path):
  path = tmp_path / "a.py"
  path.write_text(text)
  with pytest.raises(ValueError, match=re.escape(f"{str(path)!r}: {message}")):
    config_files.load(str(path))


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ("dgits.py", "dgits.py': must be a file; did you mean 'digits.py'?"),
    ("zzz.toml", "zzz.toml': must be a file; there are digits.py, list.json"),
    ("none/a.py", "none/a.py': must be a file"),
    ("note.txt", "note.txt': must be a .py, .json or .toml file"),
    ("list.json", "list.json': must be a .json file of settings (it holds a l"),
    ("list.json:x", "list.json:x': must have no variant, 'x'"),
    ("twice.json", "twice.json': must be a .json file of settings ('a': must "),
    ("wrong.toml", "wrong.toml': must be a .toml file of settings ("),
    ("", "config='': must not be empty"),
  ],
)
def test_a_wrong_file_is_named(given, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, text in {
    "digits.py": "",
    "note.txt": "",
    "list.json": "[1]",
    "twice.json": '{"a": 1, "a": 2}',
    "wrong.toml": "a = ",
  }.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=re.escape(message)):
    config_files.load(given)
