"""What the figures of a run are drawn of: the files that it left."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from quped_jax import kinds, paths, reading
from quped_jax.experiment import former_names, metrics, titles
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.figures.records import RECORD
from quped_jax.experiment.scores import Score

_VALUE = kinds.optional(kinds.number())
_HISTORY = kinds.entries(kinds.table(_VALUE))
_SUMMARY = kinds.record(
  {
    "method": kinds.text,
    "bits": kinds.entries(kinds.whole(1)),
    "primary_variant": kinds.text,
    "clients": kinds.whole(1),
    "clients_per_round": kinds.number(0),
    "client_types": kinds.table(
      kinds.record(
        {"bytes_up": kinds.number(0), "bytes_down": kinds.number(0)},
        missing=("bytes_up", "bytes_down"),
      )
    ),
  }
)
# Columns of a table of clients that are text.
_WORDS = "model", "groups"


class Left(Protocol):
  """What a `Result` has that figures are drawn of, see there."""

  @property
  def summary(self) -> dict[str, Any]: ...
  @property
  def clients(self) -> list[dict[str, Any]]: ...
  @property
  def history(self) -> list[dict[str, Any]]: ...
  @property
  def figure_records(self) -> list[dict[str, Any]]: ...


class RunData(NamedTuple):
  """What a run left.

  Attributes:
    summary: the content of `summary.json`.
    clients: the columns of `clients.csv`: numbers, `[clients]`, NaN where there
      is none; or text.
    history: the lines of `metrics.jsonl`.
    records: the lines of `figures.jsonl`; none if it recorded nothing.
  """

  summary: dict[str, Any]
  clients: dict[str, np.ndarray]
  history: list[dict[str, Any]]
  records: list[dict[str, Any]]

  @property
  def score(self) -> Score:
    """What its evaluations found."""
    return scores_lib.of_summary(self.summary)

  @property
  def variants(self) -> list[str]:
    """The variants of the clients' models, the primary one first.

    In full precision the quantized model is the personalized one.
    """
    primary = self.summary["primary_variant"]
    found = [
      name.removeprefix("test/")
      for name in self.history[-1]
      if name.startswith("test/")
    ]
    plain = all(bits == 32 for bits in self.summary["bits"])
    if plain and {"personalized", "quantized"} <= set(found):
      found.remove("quantized")
      primary = "personalized" if primary == "quantized" else primary
    return sorted(found, key=lambda name: name != primary)

  @property
  def title(self) -> str:
    """What people call the run."""
    return titles.of_run(self.summary["method"], self.summary["bits"])

  def axis(self, variant: str = "") -> str:
    """What an axis of scores says, perhaps of a variant, with its unit."""
    of = f" of the {variant} model" if variant else ""
    return self.score.title + of + (", %" if self.score.percent else "")

  def curve(self, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Rounds, and the mean score after each, as it is shown."""
    rounds = np.array([record["round"] for record in self.history], float)
    means = [record.get(f"test/{variant}") for record in self.history]
    return rounds, self.score.scale * np.array(means, float)

  def spread(self, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Rounds, and the percentiles of scores over clients after each.

    Returns:
      `[evaluations]`, and `[evaluations, percentiles]` as they are shown; both
      are empty if nothing was recorded.
    """
    found = [
      (record["round"], record["scores"][variant])
      for record in self.records
      if variant in record["scores"]
    ]
    rounds = np.array([round_ for round_, _ in found], float)
    return rounds, self.score.scale * np.array([x for _, x in found], float)


def of_result(result: Left) -> RunData:
  """What a `Result` holds."""
  # As it is read back from files.
  summary, history, records = json.loads(
    json.dumps([result.summary, result.history, result.figure_records])
  )
  rows = [metrics.in_text(row) for row in result.clients]
  return RunData(summary, _columns(rows), history, records)


def read(workdir: str | os.PathLike) -> RunData:
  """Reads what a finished run left in its workdir.

  Raises:
    ValueError: files that say something else, or no finished run; names the
      file.
  """
  folder = paths.given("workdir", workdir)
  what = "that of a finished run"

  def load(name: str, reader):
    with reading.naming(str(folder / name), what):
      return reader(folder / name)

  records = folder / "figures.jsonl"
  return RunData(
    load("summary.json", _read_summary),
    load("clients.csv", _read_clients),
    load("metrics.jsonl", lambda path: _lines(path, _HISTORY)),
    load("figures.jsonl", lambda path: _lines(path, kinds.entries(RECORD)))
    if records.exists()
    else [],
  )


def _read_summary(path: pathlib.Path) -> dict[str, Any]:
  content = kinds.table(kinds.anything)("", reading.read_json(path))
  return _SUMMARY("", former_names.renamed(content, former_names.SUMMARY))


def _read_clients(path: pathlib.Path) -> dict[str, np.ndarray]:
  columns = "client", "bits", "train_samples", "test_samples"
  return _columns([row for _, row in reading.read_csv(path, columns)])


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
  """The columns of a table of text, as numbers where they are."""

  def column(name: str) -> np.ndarray:
    cells = [row[name] for row in rows]
    if name in _WORDS:
      return np.array(cells)
    return np.array([kinds.number_text(name, cell) for cell in cells])

  return {name: column(name) for name in rows[0]}


def _lines(path: pathlib.Path, check: kinds.Check) -> list[dict[str, Any]]:
  found = check("", reading.read_json_lines(path))
  if not found:
    raise ValueError("it is empty")
  return found
