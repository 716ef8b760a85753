"""From a comparison's config to its runs, all of them checked.

The config is a mapping that holds

- `base`: the settings that all runs share, see `quped_jax.Settings`;
- `methods`: names of methods, or of variants that `overrides` define;
- `bits`: precisions to compare, as text with semicolons between rows: "32; 1".
  Each is a number that all clients have, or several, with commas between them,
  that clients have in turn, as everywhere: "32; 1,2,32";
- `seeds`: each method runs from every one of them;
- `overrides`: settings that differ, by the name of a method (`quped`) or of a
  method at one precision (`quped_1`), each in the shape of
  `Settings.from_dict`. `bits` in a method's entry replaces the `bits` above,
  for a method that does not run at every precision. `method` in an entry makes
  it a variant of that method, under the entry's own name.
"""

import dataclasses
import numbers
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from quped_jax import checks, kinds, methods, paths, reading
from quped_jax.experiment.settings import Settings
from quped_jax.quantization import codebook

# The settings that determine each client's data: methods are compared client by
# client, on the same data.
SHARED = (
  "dataset",
  "data_dir",
  "seed",
  "clients",
  "partition",
  "classes_per_client",
  "alpha",
  "min_size",
  "shards_per_client",
  "groups_per_client",
  "train_fraction",
  "validation_fraction",
  "held_out_clients",
  "public_size",
  "public_dataset",
  "public_labelled",
)

_FIELDS = {field.name: field.type for field in dataclasses.fields(Settings)}


class Row(NamedTuple):
  """A method at a precision: a row of the table.

  Attributes:
    method: its name, or that of a variant.
    bits: precisions that the clients have in turn.
  """

  method: str
  bits: tuple[int, ...]

  @property
  def name(self) -> str:
    """As folders and overrides name it: `quped_1-2-32`."""
    return f"{self.method}_{'-'.join(map(str, self.bits))}"

  @property
  def title(self) -> str:
    """As people read it: "quped, 1,2,32 bits"."""
    return f"{self.method}, {codebook.describe_bits(self.bits, ',')}"

  @property
  def bits_title(self) -> str:
    """The precisions alone: "1,2,32"."""
    return ",".join(map(str, self.bits))


class Run(NamedTuple):
  """One method at one precision from one seed.

  Attributes:
    row: the row of the table that it belongs to.
    settings: all its settings.
    folder: where its results go.
    title: what the progress display calls it.
    after: the same run with fewer rounds, from whose last checkpoint it goes
      on; None if there is none.
  """

  row: Row
  settings: Settings
  folder: pathlib.Path
  title: str
  after: "Run | None" = None


def parse_methods(values: Iterable[Any]) -> tuple[str, ...]:
  """Names of methods; an entry may be several, separated by commas."""
  names = [name.strip() for value in values for name in str(value).split(",")]
  return _checked("methods", names)


def parse_bits(field: str, given: Any) -> tuple[tuple[int, ...], ...]:
  """The precisions of rows: text, with semicolons between rows, or a number.

  Args:
    field: the field that errors name.
    given: such as "32; 1,2". Or a tuple of rows, unless it could be one row
      whose clients take turns: (32, (1, 2)), but not (32, 1).

  Raises:
    ValueError: a value that is no precision, no values at all, or a value that
      is given twice.
  """
  if not isinstance(given, str):
    given = _as_tuple(given)
    if ";" in "".join(entry for entry in given if isinstance(entry, str)):
      # A field that holds a tuple was given text on the command line.
      given = ",".join(map(str, given))
  entries = given.split(";") if isinstance(given, str) else given
  rows = [_turns(field, entry) for entry in entries]
  plain = not any(_is_several(entry) for entry in entries)
  if len(rows) > 1 and plain and not isinstance(given, str):
    digits = [str(bits) for row in rows for bits in row]
    raise ValueError(
      f"{field}={given!r}: must be text, {'; '.join(digits)!r} for "
      f"{len(rows)} rows, or {','.join(digits)!r} for one whose clients take "
      "turns"
    )
  return _checked(field, rows)


def _is_several(entry: Any) -> bool:
  if isinstance(entry, str):
    return "," in entry
  return not isinstance(entry, numbers.Integral)


def _turns(field: str, entry: Any) -> tuple[int, ...]:
  """The precisions of one row, which clients have in turn."""
  parts = entry.split(",") if isinstance(entry, str) else _as_tuple(entry)
  try:
    bits = tuple(_precision(part) for part in parts or (None,))
  except (TypeError, ValueError):
    raise ValueError(
      f"{field}={entry!r}: must be a precision, such as 32, or several for "
      "clients in turn, such as '1,2,32', with semicolons between rows"
    ) from None
  codebook.check_bits(bits, field)
  return bits


def _precision(part: Any) -> int:
  """A precision as a whole number, which true is not, or in digits."""
  if isinstance(part, str):
    return kinds.whole_text("", part.strip())
  if isinstance(part, bool) or not isinstance(part, numbers.Integral):
    raise ValueError(f"{part!r}: must be a whole number")
  return int(part)


def parse_seeds(field: str, values: Iterable[Any]) -> tuple[int, ...]:
  """Checks seeds: whole numbers, each given once."""
  return _checked(field, [checks.whole(field, value) for value in values])


def _checked(field: str, values: list[Any]) -> tuple[Any, ...]:
  if not values:
    raise ValueError(f"{field}=(): must have at least one entry")
  for value in values:
    if values.count(value) > 1:
      raise ValueError(f"{field}={value!r}: must be given only once")
  return tuple(values)


def check_fields(config: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a config has all fields of a comparison."""
  for field in ("base", "methods", "bits", "seeds", "overrides"):
    if field not in config:
      raise ValueError(
        f"config.{field}: must be given, as in the preset compare_digits"
      )


def make_rows(config: Mapping[str, Any]) -> list[Row]:
  """The rows of the table: every method at every precision.

  Args:
    config: the comparison's config, as plain values.

  Raises:
    ValueError: an unknown method, a precision that is not allowed, or overrides
      that could belong to no row.
  """
  check_fields(config)
  names, overrides = parse_methods(config["methods"]), config["overrides"]
  shared = parse_bits("bits", config["bits"])
  variants = [name for name, own in overrides.items() if "method" in own]
  allowed = sorted({*methods.METHODS, *variants})
  for name in names:
    checks.choice("methods", name, allowed)
  _check_overrides(overrides, allowed)
  rows = []
  for name in names:
    own = overrides.get(name, {})
    bits = shared
    if "bits" in own:
      bits = parse_bits(f"overrides.{name}.bits", own["bits"])
    rows += [Row(name, entry) for entry in bits]
  return rows


def _check_overrides(
  overrides: Mapping[str, Mapping[str, Any]], allowed: Iterable[str]
) -> None:
  """Each belongs to a method or a row, and changes no client's data."""
  for name, own in overrides.items():
    if "." in name:
      raise ValueError(
        f"overrides.{name!r}: must have no dot in its name, which is part of a "
        "folder's name and of --config.overrides.NAME.SETTING"
      )
    if name not in allowed and not _is_row(name, allowed):
      raise ValueError(
        f"overrides.{name}: must be a method, one of {', '.join(allowed)}, or "
        "a method and its bits, such as quped_1"
      )
    for field in own:
      if field in SHARED:
        raise ValueError(
          f"overrides.{name}.{field}={own[field]!r}: must be the same for all "
          "methods, which are compared client by client; set it in base"
        )


def _is_row(name: str, allowed: Iterable[str]) -> bool:
  method, _, bits = name.rpartition("_")
  return method in allowed and bool(re.fullmatch(r"[0-9]+(-[0-9]+)*", bits))


def _as_tuple(value: Any) -> tuple[Any, ...]:
  return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict:
  """Settings with changes; of a method's options, those that are named change.

  Where a setting is a tuple, a single value means a tuple of one.
  """
  result = dict(values)
  for name, value in changes.items():
    before = result.get(name, {})
    if isinstance(value, Mapping) and isinstance(before, Mapping):
      result[name] = {**before, **value}
    elif str(_FIELDS.get(name, "")).startswith("tuple"):
      result[name] = _as_tuple(value)
    else:
      result[name] = value
  return result


def read_overrides(path: str) -> Mapping[str, Mapping[str, Any]]:
  """Reads overrides from a JSON file, such as `best.json` of tuning.

  Raises:
    ValueError: a file that holds anything else.
    FileNotFoundError: no such file.
  """
  what = "a JSON file that maps methods to their settings, as best.json of "
  given = paths.given("overrides", path)
  with reading.naming(f"overrides={path!r}", f"{what}--tune does", absent=True):
    check = kinds.table(kinds.table(kinds.anything))
    return check("", reading.read_json(given))


def with_overrides(
  config: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
  """The config with more overrides, which take precedence over its own."""
  result = dict(config.get("overrides", {}))
  for name, own in overrides.items():
    result[name] = merge(result.get(name, {}), own)
  return {**config, "overrides": result}


def row_settings(
  config: Mapping[str, Any],
  row: Row,
  seed: int,
  changes: Mapping[str, Any] | None = None,
) -> Settings:
  """The settings of one run: the shared ones, then what is overridden.

  Args:
    config: the comparison's config, as plain values.
    row: the method and its precision.
    seed: the run's seed.
    changes: further changes, which override all others.

  Raises:
    ValueError: settings that are unknown or not allowed.
  """
  overrides = config["overrides"]
  own = merge({"method": row.method}, overrides.get(row.method, {}))
  own = merge(own, overrides.get(row.name, {}))
  values = merge(merge(config["base"], own), changes or {})
  values.update(seed=seed, bits=row.bits)
  try:
    return Settings.from_dict(values)
  except ValueError as error:
    raise ValueError(f"{row.name}: {error}") from error


def make_runs(config: Mapping[str, Any], workdir: pathlib.Path) -> list[Run]:
  """All runs of a comparison, seed by seed.

  Args:
    config: the comparison's config, as plain values.
    workdir: each run has a folder of its own in `workdir / "runs"`.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  rows = make_rows(config)
  if config["base"].get("client_types") and len({row.bits for row in rows}) > 1:
    raise ValueError(
      f"bits={config['bits']!r}: must be one row's with "
      f"base.client_types={config['base']['client_types']!r}, which gives "
      "each client's precision"
    )
  return [
    Run(
      row,
      row_settings(config, row, seed),
      workdir / "runs" / f"{row.name}_seed{seed}",
      f"{row.title}, seed {seed}",
    )
    for seed in parse_seeds("seeds", config["seeds"])
    for row in rows
  ]


def with_overrides_of(config: Mapping[str, Any], path: str) -> dict[str, Any]:
  """The config with the overrides of a file, which precede its own.

  Args:
    config: the comparison's config, as plain values.
    path: of the file, see `read_overrides`.

  Raises:
    ValueError: a file that holds anything else, or settings that the runs of
      the config cannot have; or a config that is wrong without it.
    FileNotFoundError: no such file.
  """
  overrides = read_overrides(path)
  # So that what is wrong afterwards is the file's.
  make_runs(config, pathlib.Path())
  result = with_overrides(config, overrides)
  file = f"overrides={path!r}"
  with reading.naming(file, "of settings that the runs can have"):
    make_runs(result, pathlib.Path())
  return result
