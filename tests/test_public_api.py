"""Every public name says what it takes, returns and raises; its example runs.

Docstrings are the source of `help` and of docs/api.md.
"""

import dataclasses
import doctest
import inspect
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ("callbacks", "data", "methods", "models")
NAMES = [name for name in qj.__all__ if name not in ("__version__", *MODULES)]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(qj, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(qj, name))]

# Those that check nothing that a user gives; what JAX raises is its own.
RAISE_NOTHING = {
  "current",
  "deployed",
  "freeze",
  "get_centers",
  "hard_quantize",
  "hard_quantize_tree",
  "use_cores",
  "with_centers",
}
FROM_THE_PAPER = {
  "centers_prox",
  "make_alternating",
  "prox_centers",
  "prox_quantize",
  "soft_quantize",
  "weights_prox",
}
# Examples that compile much, most of them programs of a federation.
SLOW = {
  "Callback",
  "Result",
  "Simulation",
  "StopRun",
  "build",
  "centers_prox",
  "client_state",
  "compare",
  "grid",
  "init_codebooks",
  "make_alternating",
  "make_simulation",
  "plot_run",
  "quantize_once",
  "run",
  "soft_quantize",
  "sweep",
}
# Those that take longest, and are much like another one.
LONG = {
  "Comparison",
  "Grid",
  "SimulationState",
  "init_codebook",
  "prox_quantize",
  "save_packed",
  "write_report",
}
# Examples that change what other tests would see.
ALONE = {"register_method", "register_model"}

# What docs/api.md says that examples presume.
IMPORTS = {
  "dataclasses": dataclasses,
  "jax": jax,
  "jnp": jnp,
  "nn": nn,
  "np": np,
  "optax": optax,
  "qj": qj,
}


def text(name: str) -> str:
  return inspect.getdoc(getattr(qj, name)) or ""


def sections(name: str) -> set[str]:
  return set(re.findall(r"^(\w+):$", text(name), re.M))


def run_example(name: str) -> None:
  """Runs the example of a public name; fails with doctest's report."""
  parser = doctest.DocTestParser()
  test = parser.get_doctest(text(name), dict(IMPORTS), name, None, None)
  assert test.examples
  report: list[str] = []
  doctest.DocTestRunner(
    optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  ).run(test, out=report.append)
  assert not report, "".join(report)


def test_all_names_are_known():
  assert sorted(FUNCTIONS + CLASSES) == sorted(NAMES)
  assert {*RAISE_NOTHING, *FROM_THE_PAPER, *SLOW, *ALONE} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_one_line(name):
  first, *rest = text(name).splitlines()
  assert re.fullmatch(r".*\.", first), first
  assert not rest or not rest[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_returns_and_raises(name):
  signature = inspect.signature(getattr(qj, name))
  wanted = {"Examples"}
  if signature.parameters:
    wanted.add("Args")
  if signature.return_annotation not in (None, "None"):
    wanted.add("Returns")
  if name not in RAISE_NOTHING:
    wanted.add("Raises")
  assert wanted <= sections(name)
  for parameter in signature.parameters:
    assert re.search(rf"^  \*{{0,2}}{parameter}: ", text(name), re.M), parameter


@pytest.mark.parametrize("name", sorted(FROM_THE_PAPER))
def test_what_is_from_a_paper_names_it(name):
  assert "References" in sections(name)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_holds(name):
  found = sections(name)
  assert "Examples" in found
  thing = getattr(qj, name)
  fields = getattr(thing, "_fields", ()) or [
    field.name
    for field in (
      dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    )
  ]
  if fields:
    assert "Attributes" in found
  for field in fields:
    assert re.search(rf"^  {field}: ", text(name), re.M), field


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_a_signature_that_can_be_read(name):
  shown = str(inspect.signature(getattr(qj, name)))
  for wall in ("Union[", "jaxlib", "collections.abc", "optax._src"):
    assert wall not in shown


def marks_of(name):
  if name in LONG:
    return pytest.mark.long
  return pytest.mark.slow if name in SLOW else ()


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=marks_of(name))
    for name in NAMES
    if name not in ALONE
  ],
)
def test_its_example_runs(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_example(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALONE))
def test_an_example_that_registers_something_runs(name):
  code = f"from tests import test_public_api as t; t.run_example({name!r})"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-3000:]


def test_the_page_has_every_name_once():
  page = (ROOT / "docs" / "api.md").read_text()
  pattern = r"^\.\. auto\w+:: quped_jax\.(\w+)$"
  assert sorted(re.findall(pattern, page, re.M)) == sorted(
    name for name in qj.__all__ if name != "__version__"
  )


def test_the_page_says_what_examples_presume():
  page = (ROOT / "docs" / "api.md").read_text()
  block = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M)[0]
  made: dict[str, object] = {}
  exec(compile(block, "api.md", "exec"), made)
  assert {name: made[name] for name in IMPORTS} == IMPORTS


def test_help_of_prox_quantize_is_all_that_its_user_needs():
  shown = text("prox_quantize")
  for word in (
    "init_codebooks",
    "prox_centers",
    "hard_quantize_tree",
    "MultiSteps",
    "optax.masked",
    "mask_codebooks",
    "cosine_decay_schedule",
    '"*"',
  ):
    assert word in shown, word
