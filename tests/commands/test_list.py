"""`quped list`: what there is, a line each."""

import pytest

from quped_jax.command_line import catalogue
from tests.commands.quped import in_process, mistake


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_a_kind_is_listed(kind, capsys):
  assert in_process("list", kind) == 0
  lines = capsys.readouterr().out.splitlines()
  expected = catalogue.KINDS[kind]()
  assert [line.split()[0] for line in lines] == list(expected)
  for line, words in zip(lines, expected.values(), strict=True):
    assert line.endswith(f"  {words}")


def test_without_a_kind_all_are_listed(capsys):
  assert in_process("list") == 0
  text = capsys.readouterr().out
  for kind, found in catalogue.KINDS.items():
    assert f"{kind}:\n" in text
    for name, line in found().items():
      assert f"  {name} " in text and line in text


def test_another_kind_is_a_mistake(capsys):
  assert "did you mean 'models'?" in mistake(capsys, "list", "model")
