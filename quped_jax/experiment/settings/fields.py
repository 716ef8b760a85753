"""Settings that check themselves: what a field says, its rules, its group.

A setting is one line, in its group: type, default, what it means, and rules
that its value obeys by itself:

    rounds: int = setting(40, "number of rounds.", at_least(1))

Rules that several fields of a group obey together are in the group's `_check`.
`Settings` inherits from all groups, so that it has all their fields; its own
`_check` has the rules across groups.
"""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

from quped_jax import checks, methods
from quped_jax.experiment import former_names
from quped_jax.experiment.settings import values as values_lib

T = TypeVar("T")

# `(field, value) -> None`; raises a ValueError "FIELD=VALUE: must be ...".
Rule = Callable[[str, Any], None]

_WIDTH = 80


def setting(
  default: T,
  doc: str,
  *rules: Rule,
  free: bool = False,
  data: bool = False,
  traced: bool = False,
  off_at_zero: bool = False,
  later: bool = False,
  converter: Callable[[Any], T] | None = None,
) -> T:
  """A field of a group.

  Args:
    default: its value if nothing is said; of a dict, a copy each time.
    doc: what it means, for the docstrings of its group and of `Settings`.
    *rules: checks of the value, each by itself, after that of its type.
    free: whether it changes no result, or only how it is rounded: a run may go
      on from a checkpoint with another value.
    data: whether compiled programs see it, if at all, only in what they are
      given: samples, what clients bring, or the root of all randomness.
    traced: whether programs take it as a number, see `swept`. All other
      settings are part of the programs.
    off_at_zero: whether zero turns something off, where it is traced: zero is
      part of the programs.
    later: whether there are records of runs from before the setting: its
      default, which is what they did, is not part of a run's identity.
    converter: makes its value of what is given; None for that of its type.

  Returns:
    A dataclass field; declared as what type checkers take for its value.
  """
  given: Any = {"default": default}
  if isinstance(default, dict):
    given = {"default_factory": default.copy}
  given["metadata"] = {
    "doc": doc,
    "rules": rules,
    "free": free,
    "data": data,
    "traced": traced,
    "off_at_zero": off_at_zero,
    "later": later,
    "converter": converter,
  }
  return dataclasses.field(**given)


def converted(
  *,
  default: T,
  doc: str,
  converter: Callable[[Any], T],
  rules: tuple[Rule, ...] = (),
  free: bool = False,
  data: bool = False,
  later: bool = False,
) -> T:
  """A `setting` that takes more than what it holds, such as `bits=2`.

  Type checkers read off `converter` what it takes. They know this function, and
  look for its arguments by name.

  Args:
    default: see `setting`.
    doc: likewise.
    converter: likewise.
    rules: likewise.
    free: likewise.
    data: likewise.
    later: likewise.
  """
  return setting(
    default,
    doc,
    *rules,
    free=free,
    data=data,
    later=later,
    converter=converter,
  )


@dataclass_transform(
  kw_only_default=True, frozen_default=True, field_specifiers=(converted,)
)
def group(cls: type[T]) -> type[T]:
  """Makes a class of settings: frozen, by keyword, its fields documented."""
  made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  init = made.__init__

  @functools.wraps(init)
  def gather_and_init(self, **values):
    init(self, **self._gather(values))

  made.__init__ = gather_and_init
  entries = [_entry(field) for field in dataclasses.fields(made)]
  words = inspect.cleandoc(made.__doc__)
  made.__doc__ = "\n".join([words, "", "Attributes:", *entries])
  return made


def check_names(values: Mapping[str, Any], known: Collection[str]) -> None:
  """Raises a ValueError for a name that is not known.

  For a setting's former name, it says the present one; for the name of an
  option, whose it is; else a name that is near, or all if none is.
  """
  for name, value in values.items():
    if name in former_names.SETTINGS:
      raise ValueError(
        f"{name}={checks.shown(value)}: is called "
        f"{former_names.SETTINGS[name]} now"
      )
    if name not in known:
      raise ValueError(
        f"{name}={checks.shown(value)}: no such field"
        + (
          _option(name, values.get("method"))
          or checks.did_you_mean(name, known)
          or f"; must be one of {', '.join(sorted(known))}"
        )
      )


def _option(name: str, method: Any) -> str:
  """What an error adds where a name is that of a method's option."""
  option = methods.option_called(name, method)
  if not option:
    return ""
  owner = option.partition(".")[0]
  return (
    f"; did you mean {option!r}, which in Python is {owner}={{{name!r}: ...}}?"
  )


def _entry(field: dataclasses.Field) -> str:
  text = f"{field.name}: {field.metadata['doc']}"
  if field.metadata["free"]:
    text += " May change when a run goes on."
  return textwrap.fill(
    text,
    _WIDTH,
    initial_indent="  ",
    subsequent_indent="    ",
    break_long_words=False,
    break_on_hyphens=False,
  )


class Group:
  """What all groups of settings do: check themselves when they are made."""

  @classmethod
  def _gather(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values of fields, from those that are given; unknown names are errors."""
    fields: Any = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    check_names(values, [field.name for field in fields])
    return values

  def __post_init__(self) -> None:
    """Checks types, then rules field by field, then group by group.

    Raises:
      ValueError: a value that is not allowed; names the field.
    """
    fields: Any = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
    for name, value in values_lib.typed(fields, vars(self)).items():
      object.__setattr__(self, name, value)
    for field in fields:
      for rule in field.metadata["rules"]:
        rule(field.name, getattr(self, field.name))
    # Each class's own, those of bases first: none can forget another's.
    for cls in reversed(type(self).__mro__):
      if "_check" in vars(cls):
        vars(cls)["_check"](self)


@dataclasses.dataclass(frozen=True)
class Worded:
  """A rule that says what it allows.

  Attributes:
    rule: the check.
    words: what values are allowed, such as "at least 1".
  """

  rule: Rule
  words: str

  def __call__(self, field: str, value: Any) -> None:
    """Checks a value."""
    self.rule(field, value)


def at_least(smallest: int) -> Rule:
  """The value is this or more."""
  return Worded(
    lambda field, value: checks.at_least(field, value, smallest),
    f"at least {smallest}",
  )


def one_of(allowed: Iterable[str]) -> Rule:
  """The value is one of these; of a registry, of what is in it by then."""
  return Worded(
    lambda field, value: checks.choice(field, value, tuple(allowed)),
    f"one of {', '.join(name or repr(name) for name in allowed)}",
  )


def each(rule: Rule) -> Rule:
  """Every entry of the tuple obeys the rule."""

  def check(field: str, value: Any) -> None:
    for entry in value:
      rule(field, entry)

  return check


def widths(field: str, value: tuple[int, ...]) -> None:
  """The entries are widths of layers."""
  if any(width < 1 for width in value):
    raise ValueError(f"{field}={value}: must be positive widths")


def rounds_in_order(field: str, value: tuple[int, ...]) -> None:
  """The entries are numbers of rounds, each later than the one before."""
  if list(value) != sorted(set(value)) or any(at < 1 for at in value):
    raise ValueError(
      f"{field}={value}: must be rounds from 1 on, in increasing order"
    )
