"""A type checker takes what runs, and knows what settings hold."""

import dataclasses
import pathlib

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.settings import values
from tests import typed

USE = """
import pathlib
from typing import assert_type
import numpy as np
import quped_jax as qj

"""

# Right: each also runs.
RIGHT = (
  "bits=2, hidden=16, learning_rate=0.05",
  "bits=[1, 2], hidden=range(8, 10), learning_rate=[0.1, 1]",
  "bits=(1, 2), centers_learning_rate=(0.1,), participation=1.0",
  "budget_bytes=np.array([10**6]), learning_rate_drops=[1, 2]",
  "warm_start=pathlib.Path('weights'), data_dir=pathlib.Path('data')",
  "metrics='loss, mae', dataset='digits'",
  "metrics=['loss', 'macro_f1']",
  "quped={'lambda_p': 0.3}, method_options={'fedprox': {'mu': 0.1}}",
)
WRONG = (
  "bits='2'",
  "bits=2.5",
  "hidden=[0.5]",
  "learning_rate='fast'",
  "data_dir=3",
  "clients='many'",
  "colour=3",
)


@pytest.mark.parametrize("arguments", RIGHT)
def test_what_a_type_checker_takes_makes_settings(arguments):
  eval(f"qj.Settings({arguments})", {"qj": qj, "np": np, "pathlib": pathlib})


@pytest.mark.slow
@typed.needs_pyright
def test_a_type_checker_takes_what_makes_settings_and_nothing_else(tmp_path):
  lines = USE.splitlines()
  lines += [f"qj.Settings({arguments})" for arguments in RIGHT]
  lines += [
    "assert_type(qj.Settings().bits, tuple[int, ...])",
    "assert_type(qj.Settings().learning_rate, tuple[float, ...])",
    "assert_type(qj.Settings().data_dir, str)",
  ]
  begin = len(lines)
  lines += [f"qj.Settings({arguments})" for arguments in WRONG]
  found = typed.complaints("\n".join(lines), tmp_path)
  wrong = {x["range"]["start"]["line"] for x in found}
  assert wrong == set(range(begin, len(lines))), found


def test_every_field_of_several_values_says_what_it_is_made_of():
  makers = {
    "int": values.whole_numbers,
    "float": values.numbers,
    "str": values.names,
  }
  for field in dataclasses.fields(qj.Settings):
    if "tuple" in str(field.type):
      entry = str(field.type).partition("[")[2].partition(",")[0]
      maker = makers[entry]
      assert field.metadata["converter"] is maker, field.name
