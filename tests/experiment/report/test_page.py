"""The page: sound HTML, which needs nothing else."""

import base64
import hashlib

import pytest

from quped_jax.experiment import optional
from quped_jax.experiment.report import page, workdirs
from tests import html_page
from tests.experiment.report import made


def parsed(*folders) -> html_page.Element:
  return html_page.parse(page.make(workdirs.read(folders)))


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
  folder = tmp_path_factory.mktemp("one") / made.HOSTILE.replace("/", "-")
  return parsed(made.run(folder, clients=30, diverged=(1,)))


def test_a_page_on_one_run(of_one):
  assert (
    of_one.one("title").text == "QuPeD, 1, 32 bits \N{EN DASH} quped report"
  )
  assert of_one.one("html").attributes["lang"] == "en"
  assert [x.text for x in of_one.one("nav").all("a")] == [
    x.text for x in of_one.all("h2")
  ]
  skip = next(of_one.all("a"))
  assert skip.attributes["href"] == "#main"


def test_all_clients_are_in_the_page(of_one):
  rows = html_page.table(of_one, "Clients")[1:]
  assert [row[0] for row in rows] == [str(i) for i in range(30)]


def test_figures_are_in_the_page(of_one):
  captions = [x.text for x in of_one.all("figcaption")]
  assert len(captions) == len(list(of_one.all("svg"))) >= 3
  assert any(x.startswith("Accuracy over rounds") for x in captions)


def test_what_files_say_is_text(of_one):
  assert made.HOSTILE.replace("/", "-") in of_one.text
  (script,) = of_one.all("script")
  assert "alert" not in script.text


def test_no_other_script_runs_and_nothing_is_fetched(of_one):
  (policy,) = (
    x.attributes["content"] or ""
    for x in of_one.all("meta")
    if x.attributes.get("http-equiv") == "Content-Security-Policy"
  )
  assert policy.startswith("default-src 'none'; ")
  (script,) = of_one.all("script")
  (text,) = script.children
  digest = hashlib.sha256(text.encode()).digest()
  assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_several_runs_and_a_comparison_on_one_page(tmp_path, monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)
  first = made.run(tmp_path / "a" / "run")
  second = made.run(tmp_path / "b" / "run", finished=False)
  both = made.comparison(tmp_path / "both")
  root = parsed(first, second, both)
  assert root.one("h1").text == "2 runs and 1 comparison"
  headings = [x.text for x in root.all("h2")]
  assert headings == ["Side by side", "a/run", "b/run", "both"]
  # Columns lead to the runs.
  links = [x for x in root.all("a") if x.text == "b/run"]
  assert {x.attributes["href"] for x in links} == {"#run-2"}


@pytest.mark.parametrize("finished", [True, False])
def test_a_page_on_a_comparison(tmp_path, finished):
  folder = made.comparison(tmp_path / "both")
  if not finished:
    (folder / "table.csv").unlink()
  root = parsed(folder)
  assert root.one("h1").text == "Comparison both"
  if finished:
    rows = html_page.table(root, "Methods")
    assert [row[0] for row in rows] == ["method", "quped", made.HOSTILE]


def test_an_unfinished_run_has_a_page(tmp_path):
  root = parsed(made.run(tmp_path / "run", finished=False))
  assert "This run is not finished." in root.text
  (caption,) = (x.text for x in root.all("figcaption"))
  assert caption == "Accuracy over rounds, so far"
