"""The page of a report: one file, which needs nothing else."""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple

from quped_jax.experiment import amounts
from quped_jax.experiment.report import (
  comparison_section,
  run_section,
  side_by_side,
)
from quped_jax.experiment.report.drawings import Numbering
from quped_jax.experiment.report.markup import Markup, element
from quped_jax.experiment.report.workdirs import Comparison, Run
from quped_jax.version import __version__


class _Part(NamedTuple):
  """A part of the page that its list of contents names.

  Attributes:
    key: its mark in the page.
    title: its heading.
    content: what follows.
    inner: parts of it.
  """

  key: str
  title: str
  content: Markup
  inner: Sequence["_Part"] = ()


def make(found: Sequence[Run | Comparison]) -> Markup:
  """The page on some runs and comparisons, a whole HTML document."""
  numbering = Numbering()
  if len(found) == 1:
    (only,) = found
    title, parts = _title(only), _parts(only, "part", numbering)
    where: Markup | str = element(
      "p", "Work directory: ", element("code", only.folder)
    )
  else:
    title, parts = _title_of_several(found), _several(found, numbering)
    where = ""
  return _document(title, parts, where)


def _title(one: Run | Comparison) -> str:
  return f"Comparison {one.name}" if isinstance(one, Comparison) else one.title


def _title_of_several(found: Sequence[Run | Comparison]) -> str:
  comparisons = sum(isinstance(x, Comparison) for x in found)
  counts = ((len(found) - comparisons, "run"), (comparisons, "comparison"))
  return " and ".join(amounts.count(n, noun) for n, noun in counts if n)


def _several(
  found: Sequence[Run | Comparison], numbering: Numbering
) -> list[_Part]:
  """What is side by side, then a part for each."""
  keys = [f"run-{i}" for i in range(1, len(found) + 1)]
  runs = [
    (key, x) for key, x in zip(keys, found, strict=True) if isinstance(x, Run)
  ]
  parts = []
  if len(runs) > 1:
    links = [element("a", run.name, href=f"#{key}") for key, run in runs]
    content = side_by_side.section([run for _, run in runs], links, numbering)
    parts.append(_Part("side-by-side", "Side by side", content))
  for key, one in zip(keys, found, strict=True):
    where = element("p", _title(one), ", in ", element("code", one.folder))
    inner = _parts(one, key, numbering)
    parts.append(_Part(key, one.name, where, inner))
  return parts


def _parts(
  one: Run | Comparison, key: str, numbering: Numbering
) -> list[_Part]:
  made = (
    comparison_section.sections(one)
    if isinstance(one, Comparison)
    else run_section.sections(one, numbering)
  )
  return [
    _Part(f"{key}-{heading.lower().replace(' ', '-')}", heading, content)
    for heading, content in made
  ]


def _section(part: _Part, level: int = 2) -> Markup:
  return element(
    "section",
    element(f"h{level}", part.title, id=part.key),
    part.content,
    *(_section(x, level + 1) for x in part.inner),
    aria_labelledby=part.key,
  )


def _contents(parts: Sequence[_Part]) -> Markup:
  links = [
    element("li", element("a", part.title, href=f"#{part.key}"))
    for part in parts
  ]
  return element("nav", element("ul", *links), aria_label="Contents")


def _document(
  title: str, parts: Sequence[_Part], where: Markup | str
) -> Markup:
  script = _resource("report.js")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  # Whatever came into the page, no other script runs, and nothing is fetched.
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{digest}'"
  )
  head = element(
    "head",
    element("meta", charset="utf-8"),
    element(
      "meta", http_equiv="Content-Security-Policy", content=Markup(policy)
    ),
    element(
      "meta", name="viewport", content="width=device-width, initial-scale=1"
    ),
    element("meta", name="color-scheme", content="light dark"),
    element("title", f"{title} \N{EN DASH} quped report"),
    element("style", _resource("report.css")),
  )
  body = element(
    "body",
    element("a", "Skip to the results", href="#main", class_="skip"),
    element("header", element("h1", title), where, _contents(parts)),
    element("main", *map(_section, parts), id="main", tabindex=-1),
    element("footer", element("p", f"Made by quped_jax {__version__}.")),
    element("script", script),
  )
  return Markup(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


def _resource(name: str) -> Markup:
  folder = importlib.resources.files("quped_jax.experiment.report")
  return Markup(folder.joinpath(name).read_text(encoding="utf-8"))
