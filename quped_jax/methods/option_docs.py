"""What the options of a method mean, as their docstrings say it."""

import inspect
import re


def meanings(options: type) -> dict[str, str]:
  """What the docstrings of a class and its bases say of its fields.

  Args:
    options: the class of a method's options.

  Returns:
    {name: what it means}, as far as it is said.
  """
  found: dict[str, str] = {}
  for base in reversed(options.__mro__):
    doc = inspect.cleandoc(vars(base).get("__doc__") or "")
    listed = doc.partition("Attributes:\n")[2]
    for name, words in re.findall(
      r"^  (\w+): (.*(?:\n    .*)*)", listed, re.MULTILINE
    ):
      found[name] = " ".join(words.split())
  return found
