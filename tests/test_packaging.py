"""The package that is built works outside the checkout, and says what it is."""

import email
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import Any, NamedTuple

import pytest

from quped_jax.version import __version__
from tests import typed

ROOT = pathlib.Path(__file__).parents[1]

# What a checkout has beside its files.
_BESIDE = shutil.ignore_patterns(
  ".*", "build", "dist", "results", "shared", "*.egg-info"
)
_CACHES = shutil.ignore_patterns("__pycache__")

needs_build = pytest.mark.skipif(
  importlib.util.find_spec("build") is None, reason="build is not installed"
)
needs_mypy = pytest.mark.skipif(
  importlib.util.find_spec("mypy") is None, reason="mypy is not installed"
)


class Built(NamedTuple):
  """What was built and installed.

  Attributes:
    sdist: the source distribution.
    wheel: the wheel, which was built of it.
    python: of an environment in which the wheel is installed.
    folder: an empty one.
  """

  sdist: pathlib.Path
  wheel: pathlib.Path
  python: pathlib.Path
  folder: pathlib.Path

  def run(self, program: str, *args: Any) -> subprocess.CompletedProcess:
    """Runs a program of the environment in the empty folder."""
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
      [self.python.with_name(program), *args],
      cwd=self.folder,
      env=outside,
      capture_output=True,
      text=True,
      check=False,
    )


def left_out(folder: str, names: list[str]) -> set[str]:
  """What is not copied of a checkout."""
  ignore = _BESIDE if pathlib.Path(folder) == ROOT else _CACHES
  return ignore(folder, names)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
  folder = tmp_path_factory.mktemp("package")
  shutil.copytree(ROOT, folder / "source", ignore=left_out)
  subprocess.run(
    [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    + [folder / "source"],
    check=True,
    capture_output=True,
  )
  (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
  # An environment that has what this one has, but for the package itself.
  subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
  python = folder / "env" / "bin" / "python"
  (found,) = (folder / "env").glob("lib/*/site-packages")
  # The package itself is not in these folders, but in a checkout.
  folders = [path for path in sys.path if path.endswith("site-packages")]
  (found / "dependencies.pth").write_text("\n".join(folders))
  subprocess.run(
    [python, "-m", "pip", "install", "--no-deps", "--no-index"]
    + ["--ignore-installed", "--quiet", wheel],
    check=True,
  )
  (folder / "empty").mkdir()
  return Built(sdist, wheel, python, folder / "empty")


@pytest.mark.slow
@needs_build
def test_the_wheel_works_in_a_clean_environment(built):
  where = "import quped_jax; print(quped_jax.__file__)"
  assert str(built.python.parents[1]) in built.run("python", "-c", where).stdout
  done = built.run("quped", "list", "methods")
  assert done.returncode == 0 and done.stdout.startswith("apfl ")
  done = built.run(
    "quped", "run", "--dataset=digits", "--rounds=1", "--steps=2",
    "--clients=4", "--classes_per_client=4", "--hidden=16,16",
    "--bits=1,2,32", "--workdir=results",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert {x.name for x in (built.folder / "results").iterdir()} >= {
    "summary.json", "clients.csv", "metrics.jsonl"
  }  # fmt: skip


@pytest.mark.slow
@needs_build
def test_the_wheel_has_the_library_and_nothing_else(built):
  with zipfile.ZipFile(built.wheel) as archive:
    names = set(archive.namelist())
  info = f"quped_jax-{__version__}.dist-info/"
  library = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "quped_jax").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
  }
  assert {name for name in names if not name.startswith(info)} == library
  assert "quped_jax/py.typed" in names
  assert f"{info}licenses/LICENSE" in names


@pytest.mark.slow
@needs_build
def test_the_source_distribution_has_the_tests_and_pages(built):
  with tarfile.open(built.sdist) as archive:
    names = {name.partition("/")[2] for name in archive.getnames()}
  for folder in (
    "quped_jax", "configs", "docs", "examples", "experiments", "tests"
  ):  # fmt: skip
    kept = {
      path.relative_to(ROOT).as_posix()
      for path in (ROOT / folder).rglob("*")
      if path.is_file() and path.suffix != ".pyc"
    }
    assert kept <= names, folder
  assert {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"} <= names
  assert {"Makefile", "constraints.txt", "LICENSE", "README.md"} <= names


@pytest.mark.slow
@needs_build
def test_what_an_index_shows_leads_somewhere(built):
  with zipfile.ZipFile(built.wheel) as archive:
    path = f"quped_jax-{__version__}.dist-info/METADATA"
    metadata = email.message_from_bytes(archive.read(path))
  assert metadata["Version"] == __version__
  assert metadata["License-Expression"] == "Apache-2.0"
  text = str(metadata.get_payload())
  assert text.startswith("# quped_jax\n") and "quped run" in text
  assert "![" not in text
  links = re.findall(r"\]\(([^)]*)\)", text)
  assert all(link.startswith("https://") for link in links)


@pytest.mark.slow
@needs_build
@typed.needs_pyright
@needs_mypy
@pytest.mark.parametrize(
  "checker", ["pyright", pytest.param("mypy", marks=pytest.mark.long)]
)
def test_a_users_lines_are_checked_by(checker, built):
  text = (ROOT / "README.md").read_text()
  right = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:1])
  (built.folder / "right.py").write_text(right)
  (built.folder / "wrong.py").write_text(
    "import quped_jax as qj\n"
    "qj.Settings(clients='many')\n"
    "qj.rnu(qj.Settings())\n"
    "qj.run(3)\n"
  )
  for name, count in (("right.py", 0), ("wrong.py", 3)):
    if checker == "pyright":
      command = [shutil.which("pyright", path=os.path.dirname(sys.executable))]
      command += ["--pythonpath", built.python, name]
    else:
      command = [sys.executable, "-m", "mypy", "--no-incremental"]
      command += ["--python-executable", built.python, name]
    done = subprocess.run(
      list(map(str, command)),
      cwd=built.folder,
      capture_output=True,
      text=True,
      check=False,
    )
    found = re.findall(rf"{name}:\d+.* error:", done.stdout)
    assert len(found) == count, done.stdout


def test_the_version_of_the_changes_is_that_of_the_package():
  titles = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
  assert titles[0] == __version__


def test_the_paper_is_cited():
  text = (ROOT / "CITATION.cff").read_text()
  assert "name: The quped_jax authors" in text
  assert re.findall("family-names: (.*)", text) == [
    "Ozkara", "Singh", "Data", "Diggavi"
  ]  # fmt: skip
