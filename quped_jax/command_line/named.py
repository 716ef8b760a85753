"""Settings by name: `--bits=1,2,32 --quped.lambda_p=0.3`."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from quped_jax import checks, methods
from quped_jax.experiment import former_names
from quped_jax.experiment.settings import Settings

_TRUTH = {"true": True, "yes": True, "1": True}
_TRUTH |= {"false": False, "no": False, "0": False}


def _truth(text: str) -> bool:
  if text.lower() not in _TRUTH:
    raise ValueError
  return _TRUTH[text.lower()]


def _several(convert: Callable[[str], Any]) -> Callable[[str], tuple]:
  def converted(text: str) -> tuple:
    inner = text.strip()
    for begin, end in ("()", "[]"):
      if inner.startswith(begin) and inner.endswith(end):
        inner = inner[1:-1].strip()
    # As in Python, a comma may end the list.
    inner = inner.removesuffix(",")
    return tuple(convert(part) for part in inner.split(",")) if inner else ()

  return converted


# By the type of a field: what its text must be, and what makes its value.
_KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
  "bool": ("True or False", _truth),
  "int": ("a whole number", int),
  "float": ("a number", float),
  "tuple[int, ...]": ("whole numbers, such as 1,2", _several(int)),
  "tuple[float, ...]": ("numbers, such as 0.1,0.2", _several(float)),
  "tuple[str, ...]": ("names, such as loss,mae", _several(str.strip)),
}


def parse(name: str, kind: Any, text: str) -> Any:
  """The value of a setting, from its text.

  Args:
    name: of the setting.
    kind: the type that its field is declared with.
    text: what a user wrote.

  Raises:
    ValueError: text that no value of this type has.
  """
  declared = str(kind)
  if declared not in _KINDS:
    declared = getattr(kind, "__name__", declared)
  if declared not in _KINDS:
    return text
  words, convert = _KINDS[declared]
  try:
    return convert(text)
  except ValueError:
    raise ValueError(f"{name}={text!r}: must be {words}") from None


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
  """Names and texts of `--NAME=TEXT`, `--NAME TEXT` and `--NAME`.

  Args:
    words: of the command line.

  Raises:
    ValueError: a word that is no such thing.
  """
  left = list(words)
  while left:
    word = left.pop(0)
    if not word.startswith("--") or word == "--":
      raise ValueError(
        f"{word}: must be --NAME=VALUE, as all arguments; values of a list "
        "have no spaces between them"
      )
    name, given, text = word[2:].partition("=")
    if not given and left and not left[0].startswith("--"):
      text, given = left.pop(0), "="
    yield name, text if given else None


def values_of(
  given: Iterable[tuple[str, str | None]], options: Iterable[str] = ()
) -> dict[str, Any]:
  """Settings from their texts; of one that is given twice the last counts.

  Args:
    given: names and texts; a method's options are called METHOD.OPTION.
    options: names of the command's own options, one of which may be meant.

  Returns:
    {setting: value}, with a dict of options under a method's name.

  Raises:
    ValueError: a name that is no setting's, or a text that is no value's.
  """
  fields = {x.name: x for x in dataclasses.fields(Settings)}
  fields.pop("method_options")
  values: dict[str, Any] = {}
  given = list(given)
  chosen = dict(given).get("method") or "quped"
  for written, text in given:
    name = written.replace("-", "_")
    method, dot, option = name.partition(".")
    if dot and method in methods.METHODS:
      own = values.setdefault(method, {})
      own[option] = _value(name, _field_of_option(method, option), text)
    elif name in fields:
      values[name] = _value(name, fields[name], text)
    else:
      raise ValueError(_unknown(written, [*fields, *options], chosen))
  return values


def _value(name: str, field: dataclasses.Field, text: str | None) -> Any:
  if text is not None:
    return parse(name, field.type, text)
  if "bool" in str(field.type):
    return True
  raise ValueError(f"--{name}: must have a value, as in --{name}=VALUE")


def _field_of_option(method: str, option: str) -> dataclasses.Field:
  fields = dataclasses.fields(methods.METHODS[method].options)
  found = {field.name: field for field in fields}
  if option not in found:
    raise ValueError(
      f"--{method}.{option}: no such option; must be one of "
      f"{', '.join(found) or '(none)'}{checks.did_you_mean(option, found)}"
    )
  return found[option]


def _unknown(name: str, known: Sequence[str], chosen: str) -> str:
  """What is said of a name that is no setting's, in a run of this method."""
  method, dot, option = name.partition(".")
  if method == "config" and dot:
    return f"--{name}: is called --{option} here"
  if name in former_names.SETTINGS:
    return f"--{name}: is called --{former_names.SETTINGS[name]} now"
  if name in methods.METHODS:
    return f"--{name}: must be --{name}.OPTION=VALUE, or --method={name}"
  if dot:
    near = checks.did_you_mean(method, sorted(methods.METHODS))
    return f"--{name}: must begin with the name of a method{near}"
  if meant := methods.option_called(name.replace("-", "_"), chosen):
    return f"--{name}: no such setting or option; did you mean '--{meant}'?"
  near = checks.did_you_mean(f"--{name}", [f"--{x}" for x in known])
  return f"--{name}: no such setting or option{near or '; see --help'}"
