import pathlib
import re
from typing import Any

import pytest

from quped_jax.methods import METHODS

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_readme_has_examples():
  assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_of_readme_runs(block, monkeypatch):
  from quped_jax.models import _registered

  monkeypatch.setattr("quped_jax.models._registered", dict(_registered))
  registered = dict(METHODS)
  try:
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})
  finally:
    METHODS.clear()
    METHODS.update(registered)


def test_a_method_is_added_in_under_forty_lines():
  (block,) = [b for b in BLOCKS if "register_method" in b]
  assert len([line for line in block.splitlines() if line.strip()]) < 40


def test_readme_optax_example_reaches_its_levels():
  namespace: dict[str, Any] = {"__name__": "readme"}
  (block,) = [b for b in BLOCKS if "prox_quantize" in b]
  exec(compile(block, str(README), "exec"), namespace)
  trained = namespace["params"]["kernel"]
  quantized = namespace["model"]["kernel"]
  assert len(set(quantized.ravel().tolist())) <= 4
  assert abs(trained - quantized).mean() < 1e-3


def test_commands_of_readme_name_files_that_exist():
  text = README.read_text()
  root = README.parent
  for path in set(re.findall(r"configs/\w+\.py", text)):
    assert (root / path).is_file(), path
  for module in set(re.findall(r"python -m (experiments\.\w+)", text)):
    assert (root / (module.replace(".", "/") + ".py")).is_file(), module


def test_the_tests_that_hold_promises_exist():
  text = README.read_text()
  promises = text.split("## What is promised\n")[1].split("\n## ")[0]
  rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
  assert len(rows) > 10
  for row in rows:
    held = re.findall(r"`([^`]*)`", row.rsplit("|", 2)[1])
    assert held, row
    file = None
    for test in held:
      name, _, function = test.partition("::")
      file = README.parent / "tests" / name if name else file
      assert file is not None and file.is_file(), test
      assert f"def {function}(" in file.read_text() or not function, test
