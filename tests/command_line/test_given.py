"""What a command is given: a preset or a config file, and not both."""

import argparse

import pytest

from quped_jax.command_line import given
from quped_jax.experiment import presets


def args(*words):
  parser = argparse.ArgumentParser()
  given.add_arguments(parser, "digits")
  given.add_restart(parser)
  return parser.parse_args(words)


def test_values_are_those_of_the_preset_or_the_file(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"steps": 3}')
  assert given.read(args()) == {}
  assert given.read(args("--preset=digits")) == presets.get("digits")
  assert given.read(args(f"--config={path}")) == {"steps": 3}
  assert not args().restart and args("--restart").restart


def test_both_are_too_many():
  with pytest.raises(ValueError, match="^config='a': must not be given beside"):
    given.read(args("--preset=digits", "--config=a"))


def test_errors_name_the_one_that_was_given():
  assert given.source(args("--preset=digits")) == "preset='digits'"
  assert given.source(args("--config=a.py:b")) == "config='a.py:b'"
