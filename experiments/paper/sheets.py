"""The tables of the page, made of what was found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.paper import significance, work
from experiments.paper.catalog import Table
from experiments.paper.found import Found, over_seeds
from experiments.paper.records import Store
from quped_jax.experiment import scores
from quped_jax.experiment.comparison import plan, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.sheet import Cell, Sheet
from quped_jax.experiment.comparison.statistics import Difference

_SHOWN = (
  "difference_mean",
  "worst",
  "gradients",
  "bytes",
  "model_bytes",
)


def of_part(found: Found) -> list[Sheet]:
  """All rows; by client types, if there are several; beside what is published.

  Args:
    found: a part of which something was run.
  """
  made = [_published(found)] if found.part.config.get("published") else []
  return [*made, _rows(found), *_by_type(found)]


def _rows(found: Found) -> Sheet:
  """All rows, each with its difference to the first of its precision."""
  assert found.comparison is not None
  records = []
  for row, record in zip(found.records, found.comparison.rows, strict=True):
    other = found.reference(row)
    own = None
    if other not in (None, row):
      own = found.difference(row, other)
    changed = {
      f"difference_{name}": own and getattr(own, name)
      for name in ("mean", "low", "high")
    }
    records.append({**record, **changed})
  score = next(x for x in scores.SCORES.values() if x.name in records[0])
  first = found.title(found.part.rows[0])
  columns = {column.field: column for column in tables.columns(first, score)}
  shown = [columns[name] for name in (score.name, *_SHOWN)]
  cells = [tables.cells(records, column) for column in shown]
  shared = [_global(found, row, score) for row in found.records]
  return Sheet(
    ("method", "bits", *(column.title for column in shown), "global model"),
    [
      [
        Cell(found.title(row)),
        Cell(found.part.bits_title(row)),
        *(own[i] for own in cells),
        Cell(shared[i]),
      ]
      for i, row in enumerate(found.records)
    ],
    names=2,
  )


def _global(found: Found, row: Row, score: scores.Score) -> str:
  """The mean score of the model that all share; "" if there is none."""
  summaries = [x.results.summary for x in found.records[row].values()]
  if any("global" not in x[score.name] for x in summaries):
    return ""
  means = [x[score.name]["global"]["mean"] for x in summaries]
  return f"{score.scale * float(np.mean(means)):.1f}"


def _by_type(found: Found) -> list[Sheet]:
  """What each client type gains over local training; none of one type."""
  types = next(iter(found.records.values()))[found.seeds[0]].client_types
  local = [row for row in found.records if row.method == "local"]
  if not types or not local:
    return []
  kinds = list(dict.fromkeys(types))
  rows = []
  for row, own in found.records.items():
    cells = [Cell(found.title(row))]
    for kind in kinds:
      means = [
        np.nanmean(x.results.scores[np.array(x.client_types) == kind])
        for x in own.values()
      ]
      mean = np.mean(means)
      gain = ""
      if row != local[0]:
        gain = f" ({_points(found.difference(row, local[0], kind))})"
      cells.append(Cell(f"{100 * mean:.1f}{gain}"))
    rows.append(cells)
  titles = [f"{kind} ({types.count(kind)} clients)" for kind in kinds]
  note = "in brackets, what a client of the type gains over local training"
  return [Sheet(("method", *titles), rows, notes=(note,))]


def _points(apart: Difference) -> str:
  """A mean difference of accuracies in points, with its interval if known."""
  mean = f"{100 * apart.mean:+.1f}"
  if apart.low is None or apart.high is None:
    return mean
  return f"{mean} [{100 * apart.low:+.1f}, {100 * apart.high:+.1f}]"


def of_tests(parts: Sequence[Found]) -> Sheet | None:
  """Each comparison that is tested, with its p values; None if none is."""
  tests = significance.tests(parts)
  if not tests:
    return None
  by_name = {found.part.name: found for found in parts}
  known = [test.p for test in tests if test.p is not None]
  corrected = iter(significance.holm(known))
  # A table of one part has no name for it.
  several = any(by_name)
  rows = []
  for test in tests:
    found = by_name[test.part]
    p = ("", "") if test.p is None else (test.p, next(corrected))
    rows.append(
      [
        *([Cell(test.part)] if several else []),
        Cell(f"{found.title(test.own)} minus {found.title(test.other)}"),
        Cell(found.part.bits_title(test.own)),
        Cell(", ".join(f"{100 * x:+.1f}" for x in test.differences)),
        Cell(_points(over_seeds(np.array(test.differences)))),
        *(Cell(x if isinstance(x, str) else f"{x:.2g}") for x in p),
      ]
    )
  first = ("part",) if several else ()
  return Sheet(
    (*first, "difference", "bits", "of each seed", "mean", "p", "Holm"),
    rows,
    names=len(first) + 2,
    notes=("p: paired t test over seeds; Holm: corrected for all lines",),
  )


def _published(found: Found) -> Sheet:
  """Accuracy over all test samples, of the best round, beside the published."""
  rows = []
  for row, own in found.records.items():
    best = [_best_pooled(own[seed].results.history) for seed in found.seeds]
    theirs = found.part.config["published"].get(row.method)
    ours = 100 * float(np.mean(best))
    difference = "" if theirs is None else f"{ours - theirs:+.2f}"
    rows.append(
      [
        Cell(found.title(row)),
        Cell("" if theirs is None else f"{theirs:.2f}"),
        Cell(f"{ours:.2f}"),
        Cell(difference),
      ]
    )
  return Sheet(
    ("method", "published", "ours", "difference"),
    rows,
    notes=("accuracy in %, of all test samples together, of the best round",),
  )


def _best_pooled(history: Sequence[dict]) -> float:
  """The best value over rounds of the only pooled accuracy."""
  (name,) = (name for name in history[-1] if name.endswith("/pooled"))
  return max(record[name] for record in history)


def of_tuning(table: Table, store: Store) -> Sheet | None:
  """What was tried for each row, and chosen; None if none is tuned."""
  rows = []
  for part in table.parts:
    titles = plan.titles_of(part.config)
    for row in dict.fromkeys(part.shared(row) for row in part.rows):
      known = store.tuned.get(work.tuned_name(part, row))
      if known is None or not part.is_tuned(row):
        continue
      chosen = _flat(known["chosen"])
      rows.append(
        [
          Cell(f"{part.name} {plan.title_of(row.method, titles)}".strip()),
          Cell(part.bits_title(row)),
          Cell(
            "; ".join(
              f"{name} **{_value(chosen.get(name, '?'))}** of "
              f"{', '.join(map(_value, values))}"
              for name, values in _flat(known["space"]).items()
            )
          ),
          Cell(_best(known["tried"])),
          Cell(f"{len(known['tried'])}"),
          Cell(f"{known['gradients']:,.0f}"),
        ]
      )
  if not rows:
    return None
  note = (
    "what each row's settings were chosen from; rows that are not here share "
    "those of their method at another precision"
  )
  validation = "validation: accuracy in %, of the settings that were chosen"
  titles = (
    "tuned",
    "bits",
    "chosen",
    "validation",
    "settings tried",
    "gradients",
  )
  return Sheet(titles, rows, names=3, notes=(note, validation))


def _value(value: Any) -> str:
  """A setting, which may be one for each client type."""
  if isinstance(value, (list, tuple)):
    return " / ".join(map(_value, value))
  return value if isinstance(value, str) else f"{value:g}"


def _best(tried: Sequence[Mapping[str, Any]]) -> str:
  """The best score of those that were trained to the end; "" if none was."""
  most = max(trial.get("rounds", 0) for trial in tried)
  last = [x["validation"] for x in tried if x.get("rounds", 0) == most]
  known = [x for x in last if x is not None and np.isfinite(x)]
  return f"{100 * max(known):.1f}" if known else ""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
  """Overrides or a space by the names of single settings."""
  found = {}
  for name, value in values.items():
    inner = value if isinstance(value, Mapping) else {name: value}
    found |= {key.split(".")[-1]: x for key, x in inner.items()}
  return found
