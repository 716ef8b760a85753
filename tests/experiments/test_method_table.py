"""The table of all methods in docs/methods.md is what their code says."""

import pytest

from experiments import method_table
from quped_jax.experiment.method_facts import facts
from quped_jax.methods.registry import BUILT_IN
from tests.methods import every


def test_a_page_keeps_all_but_its_table():
  page = f"one\n{method_table.BEGIN}\nold\n{method_table.END}\ntwo\n"
  made = method_table.put_into(page, "| new |\n")
  assert made == (
    f"one\n{method_table.BEGIN}\n\n| new |\n\n{method_table.END}\ntwo\n"
  )
  assert method_table.put_into(made, "| new |\n") == made
  with pytest.raises(ValueError, match="page: must have the lines"):
    method_table.put_into("nothing", "")


def rows():
  _, _, after = method_table.PAGE.read_text().partition(method_table.BEGIN)
  made, _, _ = after.partition(method_table.END)
  return made.strip() + "\n"


def test_every_method_has_a_row():
  named = [line.split("`")[1] for line in rows().splitlines()[2:]]
  assert named == sorted(BUILT_IN)


@every.over(sorted(BUILT_IN), fast=(), slow=every.EXCHANGES)
def test_the_page_says_what_the_code_does(name):
  made = method_table.table([facts(name)]).splitlines()
  assert set(made) <= set(rows().splitlines()), (
    "run python -m experiments.method_table --write"
  )
