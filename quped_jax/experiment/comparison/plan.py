"""From a comparison's config to its runs, all of them checked.

The config holds

- `base`: settings that all runs share, see `quped_jax.Settings`;
- `methods`: names, of methods or of entries of `overrides` that say `method`;
- `bits`: a precision for all clients, or several for clients in turn, each;
- `seeds`;
- `overrides`: {method, or method_bits: settings that differ}, in the shape of
  `Settings.from_dict`. A method's `bits` stand in for those of the config, for
  one that takes not every precision; its `method` says whose variant it is.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import quped_jax as qj
from quped_jax import methods
from quped_jax.quantization import codebook

# What the clients' data follow from: paired comparisons need the same.
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

_FIELDS = {field.name: field.type for field in dataclasses.fields(qj.Settings)}


class Row(NamedTuple):
  """A method at a precision: a row of the table.

  Attributes:
    method: what it is called.
    bits: of the clients, in turn.
  """

  method: str
  bits: tuple[int, ...]

  @property
  def name(self) -> str:
    """As in names of folders and in overrides."""
    return f"{self.method}_{'-'.join(map(str, self.bits))}"

  @property
  def title(self) -> str:
    """As people read it."""
    unit = "bit" if self.bits == (1,) else "bits"
    return f"{self.method}, {self.bits_title} {unit}"

  @property
  def bits_title(self) -> str:
    """The precisions alone."""
    return ",".join(map(str, self.bits))


class Run(NamedTuple):
  """One method at one precision from one seed.

  Attributes:
    row: to which it belongs.
    settings: all of them.
    folder: for its results.
    title: what progress calls it.
  """

  row: Row
  settings: qj.Settings
  folder: pathlib.Path
  title: str


def parse_methods(values: Iterable[Any]) -> tuple[str, ...]:
  """Names, some of which may be several with commas between them."""
  names = [name.strip() for value in values for name in str(value).split(",")]
  return _checked("methods", names)


def parse_bits(
  field: str, values: Iterable[Any]
) -> tuple[tuple[int, ...], ...]:
  """Precisions, each a number, a tuple of some, or text such as "1,2,32".

  Args:
    field: what errors call them.
    values: to parse.

  Raises:
    ValueError: something else, none, or one that is there twice.
  """
  result = []
  for value in values:
    parts = value.split(",") if isinstance(value, str) else value
    parts = (parts,) if isinstance(parts, int) else parts
    try:
      bits = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
      raise ValueError(
        f"{field}={value!r}: must be a precision, such as 32, or several for "
        "clients in turn, such as '1,2,32'"
      ) from None
    codebook.check_bits(bits, field)
    result.append(bits)
  return _checked(field, result)


def parse_seeds(field: str, values: Iterable[Any]) -> tuple[int, ...]:
  """Seeds, each there once."""
  for value in values:
    if not isinstance(value, int) or isinstance(value, bool):
      raise ValueError(f"{field}={value!r}: must be whole numbers")
  return _checked(field, list(values))


def _checked(field: str, values: list[Any]) -> tuple[Any, ...]:
  if not values:
    raise ValueError(f"{field}=(): must hold one at least")
  for value in values:
    if values.count(value) > 1:
      raise ValueError(f"{field}={value!r}: must be there once")
  return tuple(values)


def check_fields(config: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a config has the fields of a comparison."""
  for field in ("base", "methods", "bits", "seeds", "overrides"):
    if field not in config:
      raise ValueError(
        f"config.{field}: must be there, as in configs/compare_digits.py"
      )


def make_rows(config: Mapping[str, Any]) -> list[Row]:
  """The rows of the table: every method at every precision.

  Args:
    config: of a comparison, as plain values.

  Raises:
    ValueError: an unknown method, a precision that cannot be, or overrides of
      what is in no row that could be.
  """
  check_fields(config)
  names, overrides = parse_methods(config["methods"]), config["overrides"]
  shared = parse_bits("bits", config["bits"])
  variants = [name for name, own in overrides.items() if "method" in own]
  allowed = sorted({*methods.METHODS, *variants})
  for name in names:
    if name not in allowed:
      raise ValueError(f"methods={name!r}: must be one of {', '.join(allowed)}")
  for name, own in overrides.items():
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
  rows = []
  for name in names:
    own = overrides.get(name, {})
    bits = shared
    if "bits" in own:
      bits = parse_bits(f"overrides.{name}.bits", _as_tuple(own["bits"]))
    rows += [Row(name, entry) for entry in bits]
  return rows


def _is_row(name: str, allowed: Iterable[str]) -> bool:
  method, _, bits = name.rpartition("_")
  return method in allowed and bits.replace("-", "").isdigit()


def _as_tuple(value: Any) -> tuple[Any, ...]:
  return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict:
  """Settings with some changed, and of a method's options some.

  A single number stands for a tuple of it where the setting is a tuple.
  """
  result = dict(values)
  for name, value in changes.items():
    if isinstance(value, Mapping):
      result[name] = {**result.get(name, {}), **value}
    elif str(_FIELDS.get(name, "")).startswith("tuple"):
      result[name] = _as_tuple(value)
    else:
      result[name] = value
  return result


def row_settings(
  config: Mapping[str, Any],
  row: Row,
  seed: int,
  changes: Mapping[str, Any] | None = None,
) -> qj.Settings:
  """The settings of one run: the shared ones, then what is overridden.

  Args:
    config: of a comparison, as plain values.
    row: the method and its precision.
    seed: of the run.
    changes: further ones, which go last.

  Raises:
    ValueError: settings that are unknown or not allowed.
  """
  overrides = config["overrides"]
  own = merge({"method": row.method}, overrides.get(row.method, {}))
  own = merge(own, overrides.get(row.name, {}))
  values = merge(merge(config["base"], own), changes or {})
  values.update(seed=seed, bits=row.bits)
  try:
    return qj.Settings.from_dict(values)
  except ValueError as error:
    raise ValueError(f"{row.name}: {error}") from error


def make_runs(config: Mapping[str, Any], workdir: pathlib.Path) -> list[Run]:
  """All runs of a comparison, seed by seed.

  Args:
    config: of a comparison, as plain values.
    workdir: in whose folder `runs` each has one of its own.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  rows = make_rows(config)
  if config["base"].get("client_types") and len({row.bits for row in rows}) > 1:
    raise ValueError(
      f"bits={tuple(config['bits'])}: must have one entry with "
      f"base.client_types={config['base']['client_types']!r}, which say "
      "what clients have"
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
