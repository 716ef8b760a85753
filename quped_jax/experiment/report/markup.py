"""HTML that is made of values: whatever is not HTML already is escaped."""

import html
import re
from typing import Any

# Elements that have no end.
_VOID = frozenset({"img", "meta"})
# What HTML cannot hold, not even escaped.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
  """Text that is HTML already."""

  __slots__ = ()


def markup(value: Any) -> Markup:
  """A value as HTML: text is escaped, and what cannot be shown is a mark."""
  if isinstance(value, Markup):
    return value
  return Markup(html.escape(_CONTROLS.sub("\ufffd", str(value))))


def join(*parts: Any, between: str = "") -> Markup:
  """Parts one after the other; None and "" are left out."""
  return Markup(between.join(markup(x) for x in parts if x not in (None, "")))


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
  """An element.

  Args:
    name: such as "td".
    *children: what is in it, see `markup`.
    **attributes: their values, see `markup`; True for one without a value, None
      or False for none. Underscores stand for hyphens, and one at the end for
      nothing: `class_="number"`.

  Returns:
    The element, with its end if it has one.
  """
  written = "".join(
    f" {key.rstrip('_').replace('_', '-')}"
    + ("" if value is True else f'="{markup(value)}"')
    for key, value in attributes.items()
    if value is not None and value is not False
  )
  begin = f"<{name}{written}>"
  if name in _VOID:
    return Markup(begin)
  return Markup(f"{begin}{join(*children)}</{name}>")
