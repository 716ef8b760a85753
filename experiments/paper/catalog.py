"""The tables: a config in configs/paper for each, of settings alone.

A config holds `FULL`, a comparison as `quped_jax.experiment.comparison.plan`
says, and `SMALL`, what the small variant has instead. Besides, a comparison may
have

- `share`: {row: another}, rows that take the settings that were chosen for
  another one, such as {"local_1": "local_2"}. What their own overrides say
  counts more. A row that has neither a space in `tune` nor a share is not
  tuned;
- `parts`: {name: changes}, if the table has several comparisons, each on data
  of its own; changes are made to the table's config;
- `warm`: {method: row}, methods that start from the weights to which a row
  comes with the same seed;
- `tests`: pairs of methods, see `significance`;
- `published`: {method: accuracy in %}, with which ours is compared;
- `figure`: see `figures`; for a map, each part has a `place`, {what is shown
  from left to right: the part's value, and likewise from bottom to top}.

In `tune`, `gradients` takes the place of `trials`, see `tuning`.
"""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from quped_jax import checks
from quped_jax.experiment.client_types import parse_client_types
from quped_jax.experiment.comparison import plan
from quped_jax.experiment.comparison.plan import Row

FOLDER = pathlib.Path(__file__).parents[2] / "configs" / "paper"
VARIANTS = ("small", "full")


class Part(NamedTuple):
  """A comparison of a table.

  Attributes:
    name: "" if the table has no other.
    config: the comparison, as plain values.
  """

  name: str
  config: dict[str, Any]

  @property
  def rows(self) -> list[Row]:
    """Its rows, the most informative first."""
    return plan.make_rows(self.config)

  def shared(self, row: Row) -> Row:
    """The row whose tuned settings a row takes; its own as a rule.

    Raises:
      ValueError: a row that there is not.
    """
    name = self.config.get("share", {}).get(row.name, row.name)
    rows = {row.name: row for row in self.rows}
    checks.choice(f"share.{row.name}", name, list(rows))
    return rows[name]

  def warm(self, row: Row) -> Row | None:
    """The row from whose weights a row starts; None for fresh ones.

    Raises:
      ValueError: a row that there is not.
    """
    name = self.config.get("warm", {}).get(row.method)
    if name is None:
      return None
    rows = {row.name: row for row in self.rows}
    checks.choice(f"warm.{row.method}", name, list(rows))
    return rows[name]

  def bits(self, row: Row) -> tuple[int, ...]:
    """Precisions of a row's clients: of their types, or those of all rows."""
    types = self.config["base"].get("client_types")
    if not types:
      return row.bits
    client_types, _ = parse_client_types(types)
    return tuple(dict.fromkeys(own.bits for own in client_types))

  def bits_title(self, row: Row) -> str:
    """These in a table: "1,2,32"."""
    return row._replace(bits=self.bits(row)).bits_title

  def is_tuned(self, row: Row) -> bool:
    """Whether settings are chosen for a row, or for one that it shares with."""
    spaces = self.config.get("tune", {}).get("spaces", {})
    return self.shared(row).method in spaces


class Table(NamedTuple):
  """A table of one variant.

  Attributes:
    name: of its config, such as "b_femnist".
    variant: "small" or "full".
    parts: its comparisons.
  """

  name: str
  variant: str
  parts: tuple[Part, ...]

  @property
  def folder(self) -> str:
    """The name of the folder of its results."""
    return f"{self.name}_{self.variant}"

  @property
  def seeds(self) -> tuple[int, ...]:
    """Those of all parts."""
    return plan.parse_seeds("seeds", self.parts[0].config["seeds"])


def names() -> list[str]:
  """The tables that there are."""
  return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def get(name: str, variant: str) -> Table:
  """A table.

  Args:
    name: see `names`.
    variant: one of VARIANTS.

  Raises:
    ValueError: there is no such table or variant.
  """
  checks.choice("table", name, names())
  checks.choice("variant", variant, VARIANTS)
  module = importlib.import_module(f"configs.paper.{name}")
  config = merged(module.FULL, module.SMALL if variant == "small" else {})
  parts = config.pop("parts", {"": {}})
  return Table(
    name,
    variant,
    tuple(Part(x, merged(config, changes)) for x, changes in parts.items()),
  )


def merged(
  values: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """The values with changes, in mappings inside them too."""
  result = dict(values)
  for name, value in changes.items():
    before = result.get(name)
    if isinstance(before, Mapping) and isinstance(value, Mapping):
      result[name] = merged(before, value)
    else:
      result[name] = value
  return result


def alone(config: Mapping[str, Any], row: Row) -> dict[str, Any]:
  """The config of one row of a comparison.

  Args:
    config: the comparison's config, as plain values.
    row: one of its rows.
  """
  own = dict(config["overrides"].get(row.method, {}))
  own.pop("bits", None)
  return {
    **config,
    "methods": (row.method,),
    "bits": row.bits_title,
    "overrides": {**config["overrides"], row.method: own},
  }
