"""HTML of values: nothing that is not HTML becomes it."""

import pytest

from quped_jax.experiment.report.markup import Markup, element, join, markup
from tests.experiment.report.made import HOSTILE


def test_text_is_escaped_and_markup_is_not():
  escaped = "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;"
  assert element("td", HOSTILE) == f"<td>{escaped}</td>"
  assert element("a", "x", title=HOSTILE) == f'<a title="{escaped}">x</a>'
  inner = element("b", "x")
  assert element("td", inner, 1 < 2) == "<td><b>x</b>True</td>"
  assert isinstance(inner, Markup)


@pytest.mark.parametrize("text", ["\x00", "\x1b", "\udcff", "\x85"])
def test_what_html_cannot_hold_is_a_mark(text):
  assert markup(f"a{text}b") == "a\ufffdb"
  assert markup(text).encode() == "\ufffd".encode()


def test_attributes_have_hyphens_and_may_have_no_value():
  made = element("th", class_="x", aria_sort="none", hidden=True, open=False)
  assert made == '<th class="x" aria-sort="none" hidden></th>'
  assert element("meta", name="a", content=None) == '<meta name="a">'


def test_parts_are_joined_but_for_empty_ones():
  assert join("<", None, "", 0, between=", ") == "&lt;, 0"
