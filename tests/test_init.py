"""The public names are imported when they are used, and no sooner."""

import subprocess
import sys

import pytest

import quped_jax as qj
from quped_jax import public_api


def test_all_public_names_are_there():
  assert qj.__all__ == public_api.__all__
  assert set(qj.__all__) <= set(dir(qj))
  for name in qj.__all__:
    assert getattr(qj, name) is getattr(public_api, name)


def test_a_name_that_is_not_there_is_an_error():
  name = "ru"
  with pytest.raises(AttributeError, match="'quped_jax' has no attribute 'ru'"):
    getattr(qj, name)
  with pytest.raises(ImportError, match="cannot import name 'ru'"):
    from quped_jax import ru  # noqa: F401 # pyright: ignore


def test_jax_is_imported_with_the_first_name():
  code = """
import sys
import quped_jax as qj
from quped_jax import checks, paths
assert qj.__version__ and "jax" not in sys.modules
from quped_jax import *
assert "jax" in sys.modules and Settings is qj.Settings
assert qj.simulation.layout.use_cores is qj.use_cores
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
