"""README.md and docs/ are right: code runs, names exist."""

import argparse
import ast
import dataclasses
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

import quped_jax as qj
from quped_jax import cli
from quped_jax.experiment.comparison import plan
from quped_jax.methods import METHODS
from quped_jax.quantization import level_rules, training_steps

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
TEXT = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
QUESTIONS = (
  "quickstart",
  "how-quped-works",
  "choosing",
  "guide",
  "command-line",
  "add-your-own",
  "methods",
  "each-method",
  "quantizers",
  "uneven-clients",
  "scaling-up",
  "callbacks",
  "interruptions",
  "robustness-and-privacy",
  "compression",
  "model-files",
  "comparison",
  "RESULTS",
  "reports",
  "data",
  "reproducing",
  "errors",
  "limits",
  "promises",
  "api",
  "architecture",
  "performance",
)
# The first page of the site: the README, and the order of all others.
SITE = "index"


COMPARISON = ROOT / "quped_jax/experiment/presets/compare_digits.py"


def blocks(text: str, language: str) -> list[str]:
  """The blocks of code in that language."""
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)


# Blocks that are not slow. One that registers something runs as a process.
FAST = ("README.md-1",)
# Those that take longest, and are much like one of `examples/`, say, which all
# run as a rule.
LONG = (
  *(f"docs/add-your-own.md-{number}" for number in (0, 1, 2, 3, 4)),
  "docs/add-your-own.md-6",
  "docs/callbacks.md-1",
  "docs/callbacks.md-2",
  "docs/callbacks.md-3",
  "docs/callbacks.md-4",
  "docs/comparison.md-0",
  "docs/comparison.md-1",
  "docs/guide.md-1",
  "docs/guide.md-2",
  "docs/model-files.md-1",
  "docs/model-files.md-2",
  "docs/quantizers.md-0",
  "docs/reproducing.md-0",
)


def marks_of(block: str) -> Any:
  if block in FAST:
    return ()
  return pytest.mark.long if block in LONG else pytest.mark.slow


PYTHON = [
  pytest.param(
    code,
    id=f"{page}-{number}",
    marks=marks_of(f"{page}-{number}"),
  )
  for page, text in TEXT.items()
  for number, code in enumerate(blocks(text, "python"))
]


def the_block(page: str, word: str) -> str:
  """The one block of Python on a page that has a word in it."""
  (block,) = [b for b in blocks(TEXT[page], "python") if word in b]
  return block


def prose(text: str) -> str:
  """The text without its blocks of code."""
  return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)


def test_there_is_a_page_for_every_question_and_no_other():
  assert {page.stem for page in DOCS.glob("*.md")} == {*QUESTIONS, SITE}
  for name in QUESTIONS:
    assert f"(docs/{name}.md)" in TEXT["README.md"], name


def test_the_site_has_every_page_once():
  listed = re.findall(
    r"^```{toctree}\n(.*?)^```", TEXT[f"docs/{SITE}.md"], re.DOTALL | re.M
  )
  pages = re.findall(r"^(?:.* <)?([a-zA-Z][\w-]*)>?$", "\n".join(listed), re.M)
  assert sorted(pages) == sorted(QUESTIONS)


def test_readme_has_at_most_200_lines_and_its_two_commands():
  text = TEXT["README.md"]
  assert len(text.splitlines()) <= 200
  assert "make demo" in text and "make test" in text
  assert len(re.findall(r"!\[", text)) == 1


def test_there_are_examples():
  assert len(blocks(TEXT["README.md"], "python")) >= 2
  assert len(PYTHON) >= 7


@pytest.mark.parametrize("block", PYTHON)
def test_python_of_the_pages_runs(block, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if "register_" not in block:
    exec(compile(block, "block", "exec"), {"__name__": "block"})
    return
  # Other tests must not see what it registers.
  (tmp_path / "block.py").write_text(block)
  done = subprocess.run(
    [sys.executable, "block.py"],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-3000:]


def test_a_model_of_ones_own_is_packed_and_read_in_under_ten_lines():
  block = the_block("docs/model-files.md", "numpy_reader")
  assert len([line for line in block.splitlines() if line.strip()]) < 10


def test_a_method_is_added_in_under_forty_lines():
  block = the_block("docs/add-your-own.md", "register_method")
  assert len([line for line in block.splitlines() if line.strip()]) < 40


def test_the_optax_example_reaches_its_levels():
  namespace: dict[str, Any] = {"__name__": "readme"}
  block = the_block("README.md", "prox_quantize")
  exec(compile(block, str(README), "exec"), namespace)
  trained = namespace["params"]["kernel"]
  quantized = namespace["model"]["kernel"]
  assert len(set(quantized.ravel().tolist())) <= 4
  assert abs(trained - quantized).mean() < 1e-3


@pytest.mark.parametrize("page", TEXT)
def test_paths_in_the_text_exist(page):
  pattern = r"\b((?:configs|experiments|quped_jax|tests|docs)/[\w./-]*\w)"
  for path in set(re.findall(pattern, TEXT[page])):
    assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", TEXT)
def test_commands_name_modules_and_targets_that_exist(page):
  text = TEXT[page]
  for module in set(
    re.findall(r"python -m ((?:experiments|quped_jax)[\w.]*)", text)
  ):
    path = ROOT / module.replace(".", "/")
    files = (path.with_suffix(".py"), path / "__main__.py")
    assert any(file.is_file() for file in files), module
  makefile = (ROOT / "Makefile").read_text()
  targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
  commands = "\n".join(blocks(text, "sh") + re.findall(r"`(make [^`]+)`", text))
  for target in set(re.findall(r"^make ([a-z][\w-]*)", commands, re.M)):
    assert target in targets, target


def commands(text: str) -> list[list[str]]:
  """The words of each command `quped` in the blocks of a page."""
  lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
  return [
    shlex.split(line, comments=True)
    for line in lines
    if line.startswith("quped ")
  ]


@pytest.mark.parametrize("page", TEXT)
def test_what_commands_are_given_is_allowed(page, tmp_path):
  """Only where the words are read: whether files exist is not looked at."""
  for _, name, *words in commands(TEXT[page]):
    assert name in cli.names(), name
    module = importlib.import_module(f"quped_jax.commands.{name}")
    parser = cli.Parser(prog=name)
    module.add_arguments(parser)
    if "--help" in words:
      continue
    args, left = parser.parse_known_args(words)
    args = argparse.Namespace(**{**vars(args), "settings": left})
    if name == "run":
      assert module.settings_of(args)
    elif name == "compare":
      assert plan.make_runs(module.comparison_of(args), tmp_path)
    else:
      assert not left


def test_there_are_commands():
  assert len([x for text in TEXT.values() for x in commands(text)]) > 8


@pytest.mark.parametrize("page", TEXT)
def test_settings_in_commands_exist(page):
  fields = {field.name for field in dataclasses.fields(qj.Settings)}
  # Fields of a comparison's own config.
  fields |= {"methods", "seeds", "NAME"}
  for given in set(re.findall(r"--config\.([\w.]+)", TEXT[page])):
    # Of what all runs of a comparison share.
    name = given.removeprefix("base.")
    method, _, option = name.partition(".")
    if method == "tune":
      config = COMPARISON.read_text()
      assert f'"{option}": ' in config, name
    elif option:
      options = dataclasses.fields(METHODS[method].options)
      assert option in {field.name for field in options}, name
    else:
      assert name in fields, name


def test_the_settings_in_tables_exist():
  fields = {field.name for field in dataclasses.fields(qj.Settings)}
  for page in ("docs/uneven-clients.md", "docs/robustness-and-privacy.md"):
    tables = re.findall(r"^\| setting \|.*?\n\n", TEXT[page], re.DOTALL | re.M)
    assert tables, page
    for row in tables[0].strip().splitlines()[2:]:
      for name in re.findall(r"`(\w+)`", row.split("|")[1]):
        assert name in fields, name


def test_the_page_on_quantizers_has_every_estimator_and_rule():
  rows = re.findall(r"^\| `(\w+)` \|", TEXT["docs/quantizers.md"], re.M)
  assert rows == [
    "estimator",
    *training_steps.ESTIMATORS,
    "initial_levels",
    *level_rules.RULES,
  ]


def test_the_methods_page_has_every_method():
  rows = re.findall(r"^\| `(\w+)` \|", TEXT["docs/methods.md"], re.M)
  assert rows.pop(0) == "method"
  assert sorted(rows) == sorted(METHODS)


def test_the_page_of_single_methods_has_every_method():
  page = TEXT["docs/each-method.md"]
  assert re.findall(r"^## `(\w+)`$", page, re.M) == sorted(METHODS)
  for name, entry in METHODS.items():
    options = f"{entry.options.__module__}.{entry.options.__name__}"
    assert f".. automodule:: quped_jax.methods.{name}\n" in page
    assert f".. autoclass:: {options}\n" in page


@pytest.mark.parametrize("page", TEXT)
def test_public_names_exist(page):
  for name in set(re.findall(r"\bqj((?:\.\w+)+)", TEXT[page])):
    thing: Any = qj
    for part in name.strip(".").split("."):
      assert hasattr(thing, part), f"qj{name}"
      thing = getattr(thing, part)


def anchors(text: str) -> set[str]:
  """The anchors of the text's headings, as GitHub names them."""
  titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
  return {
    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
  }


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page):
  links = re.findall(r"\]\(([^)\s]+)\)", prose(TEXT[page]))
  for link in links:
    if re.match(r"https?://", link):
      continue
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path) if path else ROOT / page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", TEXT)
def test_no_page_names_a_folder_of_one_machine(page):
  found = re.findall(
    r"(?<![\w.~])/(?:home|root|work|Users|mnt)/\S*", TEXT[page]
  )
  assert not found


@pytest.mark.parametrize("page", TEXT)
def test_prose_is_wrapped_at_80_columns(page):
  for line in prose(TEXT[page]).splitlines():
    if not line.startswith(("|", "![")):
      assert len(line) <= 80, line


def library() -> set[str]:
  """The files of the library, except those that only make a package."""
  package = ROOT / "quped_jax"
  return {
    str(path.relative_to(package))
    for path in package.rglob("*.py")
    if path.name != "__init__.py"
  }


def test_the_architecture_page_has_every_file_once_and_in_its_room():
  house = TEXT["docs/architecture.md"].split("\n## The house\n")[1]
  rooms = re.split(r"^### `([\w/]+)/`$", house.split("\n## ")[0], flags=re.M)[
    1:
  ]
  named = []
  for room, rows in zip(rooms[::2], rooms[1::2], strict=True):
    folder = "" if room == "quped_jax" else f"{room}/"
    for row in re.findall(r"^\| `.*$", rows, re.M):
      first = row.split("|")[1]
      named += [f"{folder}{name}" for name in re.findall(r"`([^`]+)`", first)]
  assert len(named) == len(set(named))
  assert set(named) == library()


def test_what_is_added_is_added_in_one_or_two_files():
  walk = TEXT["docs/architecture.md"].split("\n## To extend it\n")[1]
  rows = re.findall(r"^\| an? (\w+).*$", walk, re.M)
  assert {"setting", "method", "network", "dataset"} <= set(rows)
  for row in re.findall(r"^\| an? .*$", walk, re.M):
    files = re.findall(r"`(quped_jax/[\w/.]+)`", row)
    assert 1 <= len(files) <= 2, row


def test_the_tests_that_hold_promises_exist():
  lines = TEXT["docs/promises.md"].splitlines()
  rows = [line for line in lines if line.startswith("| ")][2:]
  assert len(rows) > 10
  for row in rows:
    held = re.findall(r"`([^`]*)`", row.rsplit("|", 2)[1])
    assert held, row
    file = None
    for test in held:
      name, _, function = test.partition("::")
      file = ROOT / "tests" / name if name else file
      assert file is not None and file.is_file(), test
      defined = {
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
      }
      assert not function or function in defined, test
