"""What there is by name: the same as what is registered."""

import subprocess
import sys

import pytest

from quped_jax import models
from quped_jax.command_line import catalogue
from quped_jax.methods import registry

REGISTERED = {
  "methods": sorted(registry.BUILT_IN),
  "models": sorted(x for x in models.model_names() if models.is_built_in(x)),
}


@pytest.mark.parametrize("kind", REGISTERED)
def test_all_that_is_built_in_is_there(kind):
  assert list(catalogue.KINDS[kind]()) == REGISTERED[kind]


def test_all_datasets_are_there():
  # In a process of its own: tests register more.
  code = "from quped_jax import data; print(*data.dataset_names())"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert list(catalogue.datasets()) == sorted(
    [*done.stdout.split(), "synthetic"]
  )


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_each_has_a_line(kind):
  for name, line in catalogue.KINDS[kind]().items():
    assert 10 < len(line) <= 80 and not line.endswith("."), name


def test_the_line_of_a_method_is_that_of_its_file():
  assert catalogue.methods()["local"] == (
    "Local training: every client trains alone, without communication"
  )
