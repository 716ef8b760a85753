"""A comparison's table: its numbers, and as they are shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quped_jax import checks
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished
from quped_jax.experiment.comparison.sheet import Cell, Sheet
from quped_jax.experiment.comparison.statistics import paired_difference
from quped_jax.experiment.scores import ACCURACY, Score

Record = dict[str, Any]


def primary_variant_of_held_out(summary: Mapping[str, Any]) -> str | None:
  """The variant by which held-out clients are compared; None without any.

  Held-out clients have no global variant: where the primary variant is the
  global model, they use it after training it further, as a personalized one.
  """
  variants = summary["held_out_clients"]
  if not variants:
    return None
  primary_variant = summary["primary_variant"]
  return primary_variant if primary_variant in variants else "personalized"


def row_record(
  row: Row, finished: Mapping[int, Finished], model_bytes: float
) -> Record:
  """A row's numbers, without its difference to the first row.

  Args:
    row: the method at a precision.
    finished: {seed: its finished run}.
    model_bytes: size of a client's model.

  Returns:
    Means over seeds, of times the median. Scores are under their own name, not
    in percent; their standard deviation is over seeds, and None with one seed.
  """
  summaries = [run.summary for run in finished.values()]
  first = summaries[0]
  score = scores_lib.of_summary(first).name
  primary_variant = [s[score][s["primary_variant"]] for s in summaries]
  means = [spread["mean"] for spread in primary_variant]
  held_out = primary_variant_of_held_out(first)

  def mean(values) -> float:
    return float(np.mean(list(values)))

  return {
    "method": row.method,
    "bits": row.bits_title,
    "variant": first["primary_variant"],
    "seeds": len(summaries),
    score: mean(means),
    "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
    "worst": mean(spread["worst"] for spread in primary_variant),
    "p10": mean(spread["p10"] for spread in primary_variant),
    "held_out_clients": held_out
    and mean(s["held_out_clients"][held_out]["mean"] for s in summaries),
    "gradients": first["gradients"],
    "bytes": mean(s["bytes_up"] + s["bytes_down"] for s in summaries),
    "seconds": float(
      np.median([s["timing"]["seconds_per_round"] for s in summaries])
    ),
    "model_bytes": model_bytes,
  }


def make_records(
  results: Mapping[Row, Mapping[int, Finished]],
  sizes: Mapping[Row, float],
  *,
  same_clients: bool = False,
) -> list[Record]:
  """The rows of the table, each with its difference to the first.

  Args:
    results: {row: {seed: its finished run}}, with the same seeds for all rows.
    sizes: {row: bytes of a client's model}.
    same_clients: whether all seeds have the same clients, see
      `paired_difference`.
  """
  scores = {
    row: {seed: run.scores for seed, run in finished.items()}
    for row, finished in results.items()
  }
  first = next(iter(results))
  records = []
  for row, finished in results.items():
    record = row_record(row, finished, sizes[row])
    difference = None
    if row != first:
      difference = paired_difference(
        scores[row], scores[first], same_clients=same_clients
      )
    for field in ("mean", "low", "high"):
      record[f"difference_{field}"] = difference and getattr(difference, field)
    records.append(record)
  return records


def _number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _kilobytes(value: float) -> str:
  return _number(value / 1000)


class Column(NamedTuple):
  """A column of numbers.

  Attributes:
    title: what its header says.
    field: the field of the records that it shows.
    text: writes a value.
    best: `max` or `min`; None where no value is better than another.
    more: `record -> text` that follows the value.
  """

  title: str
  field: str
  text: Callable[[Any], str]
  best: Callable[..., Any] | None = None
  more: Callable[[Record], str] = lambda record: ""


def columns(first: str, score: Score = ACCURACY) -> tuple[Column, ...]:
  """All columns of numbers.

  Args:
    first: names the row that differences are to.
    score: by which methods are compared.
  """

  def std(record: Record) -> str:
    return "" if record["std"] is None else f" ({score.number(record['std'])})"

  def difference(value: float) -> str:
    return score.number(value, "+")

  def interval(record: Record) -> str:
    low, high = record["difference_low"], record["difference_high"]
    if low is None:
      return ""
    return f" [{difference(low)}, {difference(high)}]"

  return (
    Column(score.title, score.name, score.number, max, std),
    Column(f"minus {first}", "difference_mean", difference, more=interval),
    Column("worst", "worst", score.number, max),
    Column("p10", "p10", score.number, max),
    Column("held-out", "held_out_clients", score.number, max),
    Column("grads", "gradients", _number, min),
    Column("KB sent", "bytes", _kilobytes, min),
    Column("s/round", "seconds", lambda value: f"{value:.2g}", min),
    Column("model KB", "model_bytes", _kilobytes, min),
  )


def cells(records: Sequence[Record], column: Column) -> list[Cell]:
  """What a column says of each record; no cell is the best if all are equal."""
  texts = [
    "" if r[column.field] is None else column.text(r[column.field])
    for r in records
  ]
  present = [r[column.field] for r in records if r[column.field] is not None]
  best = None
  if column.best is not None and len(set(filter(None, texts))) > 1:
    # Judged by the text: numbers that look equal are equally good.
    best = column.text(column.best(present))
  return [
    Cell(text and text + column.more(record), text == best)
    for text, record in zip(texts, records, strict=True)
  ]


def _score_of(records: Sequence[Record]) -> Score:
  """The score that records have, under its name."""
  return next(x for x in scores_lib.SCORES.values() if x.name in records[0])


def notes(score: Score) -> tuple[str, ...]:
  """What the columns are, a sentence each."""
  return (
    f"{score.title}: {score.of}, of the variant that the "
    "method would deploy, mean over clients, then mean (standard deviation) "
    "over seeds",
    "minus: difference over the same clients and seeds"
    f"{', in points' if score.percent else ''}; from several "
    "seeds with its 95 % bootstrap interval over seeds and clients; where that "
    "contains 0, the two are not distinguishable at this sample size",
    "worst, p10: the worst client and the 10th percentile over clients, means "
    "over seeds; held-out: clients that took no part in training",
    "grads: gradient evaluations per client and round; KB sent: down and up, "
    "per client and round; model KB: what a client would store",
  )


def sheet(
  records: Sequence[Record],
  chosen: Iterable[str] | None = None,
  title: Callable[[str], str] = str,
) -> Sheet:
  """The table, the best of each column in bold.

  Args:
    records: its rows.
    chosen: fields of the records, to show their columns alone and in this
      order; by default all that are not empty.
    title: `method -> title`, what its rows are called.

  Raises:
    ValueError: a field that has no column.
  """
  names = [title(record["method"]) for record in records]
  first = f"{names[0]} {records[0]['bits']}"
  score = _score_of(records)
  known = {column.field: column for column in columns(first, score)}
  fields = tuple(known if chosen is None else chosen)
  for field in fields:
    checks.choice("columns", field, list(known))
  shown = [(known[x].title, cells(records, known[x])) for x in fields]
  if chosen is None:
    shown = [(name, own) for name, own in shown if any(x.text for x in own)]
  seeds = records[0]["seeds"]
  return Sheet(
    ("method", "bits", *(name for name, _ in shown)),
    [
      [Cell(name), Cell(record["bits"]), *(own[i] for _, own in shown)]
      for i, (name, record) in enumerate(zip(names, records, strict=True))
    ],
    names=2,
    title=f"Mean over {seeds} seed{'s' * (seeds > 1)}",
    notes=notes(score),
  )
