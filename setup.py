"""Builds the package, whose metadata are in setup.cfg.

Here is only what an index of packages shows: README.md without what leads
nowhere from there, images and links to files of the checkout.
"""

import pathlib
import re

import setuptools

_RELATIVE = r"\[([^]]*)\]\((?!https?:)[^)]*\)"
_PAGES = """
Titles in quotation marks are those of pages and files in the source
distribution.
"""


def _description() -> str:
  readme = pathlib.Path(__file__).with_name("README.md")
  text = readme.read_text(encoding="utf-8")
  without_images = re.sub(rf"!{_RELATIVE}\n*", "", text)
  return re.sub(_RELATIVE, r'"\1"', without_images) + _PAGES


setuptools.setup(long_description=_description())
