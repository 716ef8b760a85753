"""What a report is of: the files that runs and comparisons left."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from quped_jax import kinds, paths, reading
from quped_jax.experiment import former_names, titles
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.scores import Score
from quped_jax.methods.blocks.losses import TARGETS

_AMOUNT = kinds.optional(kinds.number(0))
_SPREAD = kinds.table(kinds.optional(kinds.number()))
_TIMING = kinds.record(
  {
    "seconds_per_round": _AMOUNT,
    "compile_seconds": _AMOUNT,
    "total_seconds": _AMOUNT,
  }
)
_DIVERGED = kinds.record(
  {"client": kinds.whole(), "rounds": kinds.whole(), "in_a_row": kinds.whole()}
)
_PRIVACY = kinds.record({"epsilon": _AMOUNT, "delta": kinds.number(0)})
# Which summaries must have; more are shown where they are there.
_SUMMARY = {
  "method": kinds.text,
  "dataset": kinds.text,
  "model": kinds.text,
  "bits": kinds.entries(kinds.whole(1)),
  "seed": kinds.whole(),
  "clients": kinds.whole(1),
  "rounds": kinds.whole(1),
  "primary_variant": kinds.text,
  "held_out_clients": kinds.table(_SPREAD),
  "diverged": kinds.entries(_DIVERGED),
  "privacy": kinds.optional(_PRIVACY),
  "gradients": kinds.number(0),
  "bytes_up": kinds.number(0),
  "bytes_down": kinds.number(0),
  "timing": _TIMING,
}
# Of those that runs of former versions do not have.
_LATER = {
  "environment": kinds.table(kinds.anything),
  "metrics": kinds.table(kinds.table(_SPREAD)),
}
_HISTORY = kinds.entries(kinds.record({"round": kinds.whole(1)}))
# Runs that an error lists.
_MOST_NAMED = 8
_VARIANTS = "quantized", "personalized", "global"


class Run(NamedTuple):
  """What a run left in its workdir.

  Attributes:
    folder: the workdir.
    name: what the report calls the run.
    settings: the content of `config.json`; {} if there is none.
    identity: that of `identity.json`, likewise.
    history: the lines of `metrics.jsonl`, likewise.
    summary: the content of `summary.json`; None if the run is not finished.
    clients: the rows of `clients.csv`, text; none if there is no such file.
  """

  folder: pathlib.Path
  name: str
  settings: dict[str, Any]
  identity: dict[str, Any]
  history: list[dict[str, Any]]
  summary: dict[str, Any] | None
  clients: list[dict[str, str]]

  @property
  def title(self) -> str:
    """What people call such a run: "QuPeD, 1 bit"."""
    said = self.summary or self.settings
    if "method" not in said or not said.get("bits"):
      return self.name
    return titles.of_run(said["method"], said["bits"])

  @property
  def score(self) -> Score:
    """What its evaluations find."""
    if self.summary is not None:
      return scores_lib.of_summary(self.summary)
    targets = TARGETS.get(str(self.settings.get("loss")), "classes")
    # Of a loss that is a function, the settings do not say.
    given = str(self.identity.get(identity_lib.LOSS_TARGETS, targets))
    return scores_lib.SCORES.get(given, scores_lib.SCORES[targets])

  @property
  def variants(self) -> list[str]:
    """The variants that were evaluated, that to compare first."""
    found = [
      name.removeprefix("test/")
      for name in (self.history[-1] if self.history else ())
      if name.startswith("test/")
    ]
    order = _VARIANTS
    if self.summary is not None:
      order = (self.summary["primary_variant"], *order)
    known = [name for name in dict.fromkeys(order) if name in found]
    return known + [name for name in found if name not in known]

  def last_round(self) -> int:
    """The last round that was evaluated; 0 if none was."""
    return self.history[-1]["round"] if self.history else 0


class Comparison(NamedTuple):
  """What a comparison left in its workdir.

  Attributes:
    folder: the workdir.
    name: what the report calls it.
    rows: those of `table.csv`, text; none if it is not finished.
    runs: all its runs, finished or not.
    figures: files of its figures, each as SVG or else as PNG.
  """

  folder: pathlib.Path
  name: str
  rows: list[dict[str, str]]
  runs: list[Run]
  figures: list[pathlib.Path]


def read(workdirs: Sequence[Any]) -> list[Run | Comparison]:
  """Reads workdirs of runs, of comparisons, and of sweeps for their runs.

  Args:
    workdirs: paths of folders.

  Raises:
    ValueError: a folder that is none of these, one that is given twice, or
      files that say something else; names it.
  """
  folders = []
  for workdir in workdirs:
    folder = paths.given("workdirs", workdir)
    own = _runs_of_sweep(folder) if (folder / "sweep.json").exists() else []
    for found in own or [folder]:
      if any(_place(found) == _place(other) for other in folders):
        raise ValueError(f"workdirs={str(found)!r}: must be given only once")
      folders.append(found)
  return [
    _read_comparison(folder, name)
    if (folder / "runs").is_dir()
    else _read_run(folder, name)
    for folder, name in zip(folders, _names(folders), strict=True)
  ]


def _runs_of_sweep(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folders of a sweep's runs that began."""
  entry = kinds.record({"folder": kinds.text})
  path = folder / "sweep.json"
  with reading.naming(str(path), "that of a sweep"):
    entries = kinds.entries(entry)("", reading.read_json(path))
  found = [folder / x["folder"] for x in entries]
  return [path for path in found if _is_run(path)]


def _place(folder: pathlib.Path) -> pathlib.Path:
  """The folder, however it was written."""
  return pathlib.Path(os.path.abspath(folder))


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """What to call folders: the last parts of their paths, as many as differ."""
  parts = [_place(folder).parts for folder in folders]

  def name(own, depth=1):
    mine = own[-depth:]
    same = sum(other[-depth:] == mine for other in parts)
    return name(own, depth + 1) if same > 1 else os.path.join(*mine)

  return [name(own) for own in parts]


def _is_run(folder: pathlib.Path) -> bool:
  return any((folder / x).is_file() for x in ("config.json", "summary.json"))


def _read_run(folder: pathlib.Path, name: str) -> Run:
  if not _is_run(folder):
    raise ValueError(
      f"workdirs={str(folder)!r}: must be the work directory of a run, a sweep "
      "or a comparison, which has a config.json, a sweep.json or a folder runs"
      f"{_runs_inside(folder)}"
    )
  settings = former_names.renamed(
    _load(folder / "config.json", kinds.table(kinds.anything), {}),
    former_names.SETTINGS,
  )
  finished = (folder / "summary.json").exists()
  return Run(
    folder,
    name,
    settings,
    _load(folder / "identity.json", kinds.table(kinds.anything), {}),
    _history(folder / "metrics.jsonl", whole=finished),
    _summary(folder / "summary.json") if finished else None,
    _clients(folder / "clients.csv") if finished else [],
  )


def _runs_inside(folder: pathlib.Path) -> str:
  """What an error adds of a folder that has runs, and is none itself."""
  inside = sorted(path.parent for path in folder.glob("*/summary.json"))
  if not inside:
    return ""
  more = ", ..." * (len(inside) > _MOST_NAMED)
  named = ", ".join(map(str, inside[:_MOST_NAMED]))
  return f"; there are runs in {named}{more}"


def _load(path: pathlib.Path, check: kinds.Check, absent: Any) -> Any:
  """What a file of JSON says, if there is one."""
  return _named(
    path,
    lambda: check("", reading.read_json(path)) if path.exists() else absent,
  )


def _named(path: pathlib.Path, read_it: Callable[[], Any]) -> Any:
  with reading.naming(str(path), "as a run wrote it"):
    return read_it()


def _summary(path: pathlib.Path) -> dict[str, Any]:
  def understood():
    content = kinds.table(kinds.anything)("", reading.read_json(path))
    content = former_names.renamed(content, former_names.SUMMARY)
    score = scores_lib.of_summary(content).name
    by_variant = kinds.table(_SPREAD)
    types = kinds.record({"clients": kinds.whole(), score: by_variant})
    fields = {
      **_SUMMARY,
      **_LATER,
      score: by_variant,
      "client_types": kinds.table(types),
    }
    summary = kinds.record(fields, missing=_LATER)("", content)
    variant = summary["primary_variant"]
    kinds.choice(*summary[score])("primary_variant", variant)
    return summary

  return _named(path, understood)


def _history(path: pathlib.Path, *, whole: bool) -> list[dict[str, Any]]:
  """The lines of a file; of one that grows, those that are complete."""

  def understood():
    if not path.exists():
      return []
    if whole:
      return _HISTORY("", reading.read_json_lines(path))
    lines = reading.read_text(path).split("\n")[:-1]
    return _HISTORY("", [reading.parse_json(line) for line in lines])

  return _named(path, understood)


def _clients(path: pathlib.Path) -> list[dict[str, str]]:
  if not path.exists():
    return []
  return _named(
    path, lambda: [row for _, row in reading.read_csv(path, ("client", "bits"))]
  )


def _read_comparison(folder: pathlib.Path, name: str) -> Comparison:
  table = folder / "table.csv"
  rows = []
  if table.exists():
    columns = "method", "bits"
    rows = _named(
      table, lambda: [row for _, row in reading.read_csv(table, columns)]
    )
  found = sorted(path for path in (folder / "runs").iterdir() if _is_run(path))
  files = {path.stem: path for path in sorted(folder.glob("*.png"))}
  files |= {path.stem: path for path in sorted(folder.glob("*.svg"))}
  return Comparison(
    folder,
    name,
    rows,
    [_read_run(path, path.name) for path in found],
    [files[stem] for stem in sorted(files)],
  )


def said(value: Any) -> str:
  """A value of a JSON file as text."""
  return value if isinstance(value, str) else json.dumps(value)
