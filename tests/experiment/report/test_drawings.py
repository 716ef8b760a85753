"""Figures in a page: names of their own, and nothing that is fetched or run."""

import re

import pytest

from quped_jax.experiment import optional
from quped_jax.experiment.figures import style
from quped_jax.experiment.report import drawings


def figure() -> style.Figure:
  drawn = style.figure()
  axes = drawn.subplots()
  (look,) = style.looks(["a <b>"]).values()
  style.line(axes, look, [1, 2], [3, 4], "a <b>")
  style.band(axes, look, [1, 2], [2, 3], [4, 5])
  style.legend(axes)
  return drawn


def test_names_are_the_figures_own():
  first, second = (drawings.inline(figure(), i, "x") for i in (1, 2))
  names = [set(re.findall(r'id="([^"]*)"', x)) for x in (first, second)]
  assert names[0] and not names[0] & names[1]
  for svg, own in zip((first, second), names, strict=True):
    used = re.findall(r'href="#([^"]*)"', svg) + re.findall(
      r"url\(#(.*?)\)", svg
    )
    assert set(used) == own


def test_it_is_the_same_each_time():
  assert drawings.inline(figure(), 1, "x") == drawings.inline(figure(), 1, "x")


def test_letters_are_text_and_the_page_has_the_style():
  svg = drawings.inline(figure(), 1, "<i>")
  assert ">a &lt;b&gt;</text>" in svg
  assert "<style" not in svg and "<metadata" not in svg and "<?xml" not in svg
  assert 'role="img" aria-label="&lt;i&gt;"' in svg
  assert svg.endswith("<figcaption>&lt;i&gt;</figcaption></figure>")
  # The page gives it its width; its height follows.
  (opening,) = re.findall(r"<svg[^>]*>", svg)
  assert " width=" not in opening and " height=" not in opening
  assert "viewBox=" in opening


@pytest.mark.parametrize(
  ("name", "kind"), [("a_b.svg", "image/svg+xml"), ("a_b.png", "image/png")]
)
def test_a_file_is_a_picture(tmp_path, name, kind):
  path = tmp_path / name
  path.write_bytes(b"<svg onload='alert()'/>")
  made = drawings.of_file(path)
  assert f'<img src="data:{kind};base64,PHN2Zy' in made
  assert 'alt="a b"' in made and "onload" not in made


def test_captions_say_what_a_figure_is():
  assert drawings.caption_of("label_accuracy_over_rounds").startswith(
    "Label accuracy over rounds"
  )
  assert drawings.caption_of("bytes").startswith("Bytes")
  assert drawings.caption_of("of_a_later_version") == "Of a later version"


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)
  made = drawings.Numbering().draw(lambda: pytest.fail("drawn"))
  assert "pip install &#x27;quped_jax[plot]&#x27;" in made


def test_figures_of_a_page_are_numbered():
  numbering = drawings.Numbering()
  made = numbering.draw(lambda: {"x": figure(), "y": figure()})
  made += numbering.draw(lambda: {"z": figure()})
  assert set(re.findall(r"figure-(\d)", made)) == {"1", "2", "3"}


def test_a_figure_that_the_run_drew_comes_after_those_of_the_page(tmp_path):
  path = tmp_path / "partition.svg"
  path.write_text("<svg/>")
  made = drawings.Numbering().draw(lambda: {"x": figure()}, [path])
  assert made.index('id="figure-1') < made.index("<img")
  assert "<figcaption>How samples are divided over clients" in made
