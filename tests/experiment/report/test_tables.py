"""Tables: who reads by ear or by keys has what others see."""

from quped_jax.experiment.report import tables
from tests.experiment.report.made import HOSTILE

TITLES = "client", "model", "bits"


def test_a_table_has_caption_and_headings():
  made = tables.table("All", TITLES, [["0", HOSTILE, "32"]], names=2)
  assert "<caption>All</caption>" in made
  assert '<th scope="col">model</th>' in made
  assert '<th scope="col" class="number">bits</th>' in made
  assert '<th scope="row">0</th>' in made
  assert '<td class="number">32</td>' in made
  assert "<script>" not in made and "sortable" not in made


def test_a_box_can_be_scrolled_by_keys():
  made = tables.table("All", TITLES, [], sortable=True)
  assert made.startswith(
    '<div class="box" role="region" aria-label="All" tabindex="0">'
  )
  assert '<table class="sortable">' in made


def test_facts_without_a_value_are_left_out():
  made = tables.facts([("a", 0), ("b", ""), ("c", None), ("d", "x")])
  assert "<dt>a</dt><dd>0</dd>" in made and "<dt>d</dt>" in made
  assert "<dt>b</dt>" not in made and "<dt>c</dt>" not in made


def test_a_fold_is_closed_unless_opened():
  assert tables.fold("x", "y") == "<details><summary>x</summary>y</details>"
  assert tables.fold("x", opened=True).startswith("<details open>")
