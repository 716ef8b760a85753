"""The table of all methods in docs/methods.md is what their code says."""

import pytest

from experiments import method_table


def test_a_page_keeps_all_but_its_table():
  page = f"one\n{method_table.BEGIN}\nold\n{method_table.END}\ntwo\n"
  made = method_table.put_into(page, "| new |\n")
  assert made == (
    f"one\n{method_table.BEGIN}\n\n| new |\n\n{method_table.END}\ntwo\n"
  )
  assert method_table.put_into(made, "| new |\n") == made
  with pytest.raises(ValueError, match="page: must have the lines"):
    method_table.put_into("nothing", "")
