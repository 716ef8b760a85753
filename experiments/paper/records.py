"""What was found: a folder of small files for each table, variant and device.

`runs.jsonl` has a line per run, whose results are all that a table needs;
`tuned.json` what was tried for a row, and chosen. Both are kept in the
repository, so that whoever has it goes on where others stopped. Runs on other
devices are in other folders: a table never mixes them. Tables of one device
share runs and tunings of the same settings: each is made once.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from quped_jax import kinds, paths, reading
from quped_jax.experiment import metrics
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished
from quped_jax.experiment.settings import Settings

# What tables need of a summary, beside its score.
_SUMMARY = (
  "score",
  "primary_variant",
  "gradients",
  "clients",
  "clients_per_round",
  "bytes_up",
  "bytes_down",
  "held_out_clients",
  "environment",
)
_DIGITS = 5  # Of scores.
_RUN = kinds.record(
  {
    "part": kinds.text,
    "method": kinds.text,
    "bits": kinds.entries(kinds.whole(1)),
    "seed": kinds.whole(),
    "settings": kinds.text,
    "diverged": kinds.boolean,
    "summary": kinds.table(kinds.anything),
    "scores": kinds.entries(kinds.optional(kinds.number())),
    "history": kinds.entries(kinds.table(kinds.optional(kinds.number()))),
    "test_samples": kinds.entries(kinds.whole()),
    "client_types": kinds.entries(kinds.text),
    "model_bytes": kinds.number(0),
  },
  others=False,
)
_TUNED = kinds.table(
  kinds.record(
    {
      "settings": kinds.text,
      "space": kinds.table(kinds.anything),
      "gradients": kinds.number(0),
      "seconds": kinds.number(0),
      "chosen": kinds.table(kinds.anything),
      "tried": kinds.entries(kinds.table(kinds.anything)),
    },
    others=False,
  )
)


class Key(NamedTuple):
  """Which run it is.

  Attributes:
    part: of the table.
    row: of the part.
    seed: of the run.
  """

  part: str
  row: Row
  seed: int


class Record(NamedTuple):
  """What a run came to.

  Attributes:
    settings: a digest of those that its results follow from.
    finished: its summary, scores and history, as far as tables need them; None
      if it diverged.
    test_samples: of each client.
    client_types: of each client; () if all are of one.
    model_bytes: of what a client would use, mean over clients.
  """

  settings: str
  finished: Finished | None
  test_samples: tuple[int, ...]
  client_types: tuple[str, ...]
  model_bytes: float

  @property
  def results(self) -> Finished:
    """What it left, of a run that did not diverge."""
    assert self.finished is not None
    return self.finished


def digest(settings: Any) -> str:
  """A short text that differs if the settings do.

  Args:
    settings: the Settings of a run, or JSON values.
  """
  if isinstance(settings, Settings):
    settings = settings.identity()
    # Where the files are does not matter.
    settings.pop("data_dir", None)
  text = json.dumps(metrics.plain(settings), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
  """The files of a folder.

  Args:
    folder: of a table, a variant and a device; made when something is added.

  Raises:
    ValueError: files that say something else.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._runs = folder / "runs.jsonl"
    self._tuned = folder / "tuned.json"
    self.runs: dict[Key, Record] = {}
    self.tuned: dict[str, dict[str, Any]] = {}
    if self._runs.exists():
      with reading.naming(str(self._runs), "lines of the runs of a table"):
        for i, line in enumerate(reading.read_json_lines(self._runs), 1):
          key, record = _read(_RUN(f"line {i}", line))
          self.runs[key] = record
    if self._tuned.exists():
      with reading.naming(str(self._tuned), "what was tried for rows"):
        self.tuned = _TUNED("", reading.read_json(self._tuned))

  def add(self, key: Key, record: Record) -> None:
    """Keeps a run, instead of an earlier one."""
    self.runs[key] = record
    self.folder.mkdir(parents=True, exist_ok=True)
    lines = [
      json.dumps(_line(*item), allow_nan=False) for item in self.runs.items()
    ]
    paths.replace_text(self._runs, "\n".join(lines) + "\n")

  def add_tuned(self, name: str, record: Mapping[str, Any]) -> None:
    """Keeps what was tried for a row, and chosen.

    Args:
      name: of the part and the row.
      record: its `settings`, a digest; `space`, `gradients` of a client and
        `seconds` of all trials; what was `chosen` and `tried`.
    """
    self.tuned[name] = _TUNED("", {name: metrics.plain(dict(record))})[name]
    self.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(self.tuned, indent=1, allow_nan=False)
    paths.replace_text(self._tuned, text + "\n")

  def run_like(self, settings: str) -> Record | None:
    """A run, of any table of this device, whose settings have this digest."""
    return next(
      (
        record
        for store in self._of_device()
        for record in store.runs.values()
        if record.settings == settings
      ),
      None,
    )

  def tuned_like(self, settings: str) -> dict[str, Any] | None:
    """A tuning, likewise."""
    return next(
      (
        record
        for store in self._of_device()
        for record in store.tuned.values()
        if record["settings"] == settings
      ),
      None,
    )

  def _of_device(self) -> Iterator["Store"]:
    """This store, then those of the other tables on its device."""
    yield self
    for folder in sorted(self.folder.parents[1].glob(f"*/{self.folder.name}")):
      if folder != self.folder:
        yield Store(folder)


def of_run(
  settings: Settings,
  found: Finished | None,
  test_samples: Any,
  client_types: Any,
  model_bytes: float,
) -> Record:
  """The record of a run, with no more than tables need.

  Args:
    settings: of the run.
    found: what it left; None if it diverged.
    test_samples: of each client.
    client_types: likewise.
    model_bytes: see `Record`.
  """
  types = tuple(client_types) if len(set(client_types)) > 1 else ()
  samples = tuple(map(int, test_samples))
  if found is None:
    return Record(digest(settings), None, samples, types, model_bytes)
  summary = {k: found.summary[k] for k in _SUMMARY if k in found.summary}
  name = found.summary.get("score", "accuracy")
  variant = summary["primary_variant"]
  # Of variants that are not compared, the mean alone.
  summary[name] = {
    k: v if k == variant else {"mean": v["mean"]}
    for k, v in found.summary[name].items()
  }
  summary["timing"] = {
    k: found.summary["timing"][k]
    for k in ("seconds_per_round", "compile_seconds", "total_seconds")
  }
  history = [
    {k: v for k, v in record.items() if _is_shown(k, variant)}
    for record in found.history
  ]
  return Record(
    digest(settings),
    Finished(summary, found.scores, history),
    samples,
    types,
    model_bytes,
  )


def _is_shown(name: str, variant: str) -> bool:
  """Whether tables need a value of a round: the score, and pooled measures."""
  return name in ("round", f"test/{variant}") or name.endswith(
    f"/test/{variant}/pooled"
  )


def _read(line: Mapping[str, Any]) -> tuple[Key, Record]:
  row = Row(line["method"], tuple(line["bits"]))
  finished = None
  if not line["diverged"]:
    scores = np.array(line["scores"], float)
    finished = Finished(line["summary"], scores, line["history"])
  return Key(line["part"], row, line["seed"]), Record(
    line["settings"],
    finished,
    tuple(line["test_samples"]),
    tuple(line["client_types"]),
    line["model_bytes"],
  )


def _line(key: Key, record: Record) -> dict[str, Any]:
  found = record.finished
  line = {
    "part": key.part,
    "method": key.row.method,
    "bits": key.row.bits,
    "seed": key.seed,
    "settings": record.settings,
    "diverged": found is None,
    "summary": {} if found is None else found.summary,
    "scores": [] if found is None else _rounded(found.scores.tolist()),
    "history": [] if found is None else _rounded(found.history),
    "test_samples": record.test_samples,
    "client_types": record.client_types,
    "model_bytes": record.model_bytes,
  }
  return metrics.plain(line)


def _rounded(value: Any) -> Any:
  if isinstance(value, list):
    return [_rounded(x) for x in value]
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  return round(value, _DIGITS) if isinstance(value, float) else value
