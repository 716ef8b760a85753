"""What people call methods and runs."""

from typing import Any

import pytest

import quped_jax as qj
from quped_jax.experiment import titles
from quped_jax.methods import METHODS, registry


@pytest.mark.parametrize(
  ("method", "title"),
  [
    ("quped", "QuPeD"),
    ("qupel", "QuPeL"),
    ("local", "Local training"),
    ("ds_fl", "DS-FL"),
    ("fml", "FML"),
    ("fedavg_ft", "FedAvg with fine-tuning"),
    ("quped_soft", "quped_soft"),
  ],
)
def test_methods_are_called_as_readers_know_them(method, title):
  assert titles.of_method(method) == title


def test_all_built_in_methods_have_titles_of_their_own():
  found = [titles.of_method(name) for name in registry.BUILT_IN]
  assert len(set(found)) == len(found)
  assert max(map(len, found)) <= 25


def test_a_method_of_an_author_is_called_by_its_name(monkeypatch):
  entry = METHODS["local"]
  monkeypatch.setitem(METHODS, "local", entry)
  make: Any = lambda *_: None  # noqa: E731
  qj.register_method("local", make, entry.options, version=3)
  assert titles.of_method("local") == "local"


def test_a_run_is_called_by_its_method_and_its_precisions():
  assert titles.of_run("quped", (1,)) == "QuPeD, 1 bit"
  assert titles.of_run("local", (1, 2, 32)) == ("Local training, 1, 2, 32 bits")
