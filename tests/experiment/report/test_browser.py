"""A report in a real browser: `make test-browser`, with Chromium."""

import pathlib

import pytest

import quped_jax as qj
from tests import browser
from tests.experiment.report import made

pytestmark = [
  pytest.mark.browser,
  pytest.mark.skipif(
    browser.PROGRAM is None, reason="Chromium is not installed"
  ),
]

# The channels of a colour, as getComputedStyle says them.
_COLOUR = "getComputedStyle(document.{0}).{1}.match(/[\\d.]+/g).map(Number)"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("report")
  runs = [
    made.run(folder / made.HOSTILE.replace("/", "-"), clients=3000),
    made.run(folder / "local", method="local"),
    made.run(folder / "stopped", finished=False),
    made.comparison(folder / "comparison"),
  ]
  return qj.write_report(runs, folder / "report.html")


@pytest.fixture
def page(report, tmp_path_factory):
  with browser.page(tmp_path_factory.mktemp("profile")) as opened:
    opened.size(1280)
    opened.open(report)
    yield opened
    assert opened.problems == []


def clients(page: browser.Page, column: int) -> list[str]:
  """The cells of a column of the first run's table of clients."""
  return page.value(
    "[...document.querySelector('[aria-labelledby=run-1-clients] tbody').rows]"
    f".map(row => row.cells[{column}].textContent)"
  )


def test_nothing_is_fetched_and_no_text_is_run(page):
  assert page.requests == []
  assert page.value("document.scripts.length") == 1


def test_clients_are_sorted_by_keys(page):
  find = "document.querySelector('[aria-labelledby=run-1-clients] {0}').{1}"
  page.value(find.format("summary", "focus()"))
  page.press("Enter")  # The table opens.
  assert page.value(find.format("details", "open"))
  page.press("Tab")  # Its box, which scrolls by keys.
  assert page.value("document.activeElement.className") == "box"
  for _ in range(3):
    page.press("Tab")
  assert page.value("document.activeElement.textContent") == "bits"
  outline = "getComputedStyle(document.activeElement).outlineStyle"
  assert page.value(outline) == "solid"
  sort = "document.activeElement.parentElement.getAttribute('aria-sort')"
  page.press("Enter")
  assert page.value(sort) == "ascending"
  bits = clients(page, 2)
  assert bits == ["1"] * 1500 + ["32"] * 1500
  page.press("Space")
  assert page.value(sort) == "descending"
  assert clients(page, 2) == bits[::-1]
  assert len(set(clients(page, 0))) == 3000


def test_the_skip_link_comes_first_and_leads_to_the_results(page):
  page.press("Tab")
  assert page.value("document.activeElement.className") == "skip"
  top = "document.activeElement.getBoundingClientRect().top"
  assert page.value(top) >= 0
  page.press("Enter")
  assert page.value("location.hash") == "#main"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_is_no_wider_than_the_window(page, width):
  page.size(width)
  page.value("document.querySelectorAll('details').forEach(x => x.open = true)")
  assert page.value("document.documentElement.scrollWidth") <= width
  # Wide tables scroll in boxes of their own.
  widest = "Math.max(...[...document.querySelectorAll('.box')].map({0}))"
  assert page.value(widest.format("x => x.clientWidth")) <= width
  if width == 360:
    assert page.value(widest.format("x => x.scrollWidth")) > width


def test_what_a_row_is_of_stays_in_sight_on_a_phone(page):
  page.size(360)
  left = page.value(
    "[...document.querySelectorAll('.box')].filter("
    "  x => x.querySelector('table') && x.scrollWidth > x.clientWidth"
    ").map(x => {"
    "  x.scrollLeft = 1e6;"
    "  const head = x.querySelector('tbody th').getBoundingClientRect();"
    "  const own = x.getBoundingClientRect();"
    "  return [head.left - own.left, head.width / own.width];"
    "})"
  )
  assert left
  for place, share in left:
    assert 0 <= place <= 2 and share < 0.5


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_by_day_and_by_night(page, dark):
  page.media(dark=dark)
  ground = page.value(_COLOUR.format("documentElement", "backgroundColor"))
  assert (sum(ground) < 150) == dark
  for selector in ("body", "a", "caption", "dt", "summary", ".note"):
    place = f"querySelector('{selector}')"
    ink = page.value(_COLOUR.format(place, "color"))
    assert contrast(ink[:3], ground[:3]) >= 4.5, selector
  drawn = "getComputedStyle(document.querySelector('figure svg')).{0}"
  look = "invert" if dark else "none"
  assert page.value(drawn.format("filter")).startswith(look)
  # So that figures have the ground of the page.
  blend = page.value(drawn.format("mixBlendMode"))
  assert blend == ("lighten" if dark else "normal")


def contrast(a: list[float], b: list[float]) -> float:
  """The contrast of two colours by WCAG, from 1 to 21."""

  def luminance(colour):
    parts = [x / 255 for x in colour]
    linear = [
      x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  low, high = sorted((luminance(a), luminance(b)))
  return (high + 0.05) / (low + 0.05)


def test_it_is_printed_in_black_on_white_with_whole_tables(page):
  page.media("print", dark=True)
  ground = page.value(_COLOUR.format("documentElement", "backgroundColor"))
  assert ground[:3] == [255, 255, 255]
  height = "getComputedStyle(document.querySelector('.box')).maxHeight"
  assert page.value(height) == "none"
  # Between the margins of a letter.
  page.size(739)
  wide = "[...document.querySelectorAll('table')].map(x => x.scrollWidth)"
  assert max(page.value(wide)) <= 739
  # Chromium repeats heads on later pages without what is a box, as buttons are.
  button = "getComputedStyle(document.querySelector('th button')).display"
  assert page.value(button) == "contents"
  size = "parseFloat(getComputedStyle(document.querySelector('{0}')).fontSize)"
  note, body = (page.value(size.format(x)) for x in (".note", "body"))
  assert note < body
  assert page.printed().startswith(b"%PDF")
