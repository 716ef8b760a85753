"""Methods side by side, in one call."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from quped_jax import checks, paths, scalars
from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import many, output, own_functions
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.changes import flatten, unflatten
from quped_jax.experiment.comparison import plan, report
from quped_jax.experiment.comparison.result import Comparison
from quped_jax.experiment.settings import Settings
from quped_jax.typing import Path

# One precision, or those that clients have in turn.
Bits = int | Sequence[int]

# Settings that a comparison has arguments of its own for.
_ARGUMENTS = {"method": "methods", "seed": "seeds"}


def compare(
  methods: str | Iterable[str],
  bits: str | int | Iterable[Bits] | None = None,
  seeds: int | Iterable[int] = (0, 1, 2),
  settings: Settings | None = None,
  workdir: Path | None = None,
  *,
  overrides: Mapping[str, Mapping[str, Any]] | None = None,
  titles: Mapping[str, str] | None = None,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  loss: str | own_functions.Loss | None = None,
  metrics: own_functions.Metrics = (),
  quiet: bool = False,
  restart: bool = False,
  run_strategy: str = "auto",
  callbacks: Callable[[plan.Run], Sequence[Callback]] | None = None,
  **changes: Any,
) -> Comparison:
  """Compares methods, each at every precision and from every seed.

  All methods have the same clients with the same samples, so that they are
  compared client by client; each run is the one that its settings alone give.
  Runs that can share compiled programs do, such as the seeds of a method.

  A seed decides initial weights, batches, and how samples are divided over
  clients. With a `federation` that is given, all seeds have its clients and
  samples, and decide the rest.

  If a comparison with a workdir is interrupted, the same call goes on. Without
  a workdir its runs are in a temporary folder, which is deleted once all of it
  is in the result. If it does not come to that, the error says where the folder
  is: with that as workdir, the next call goes on from there.

  Args:
    methods: names of methods, or of variants that `overrides` define. The
      others are compared with the first.
    bits: the precisions of each method: a list, in which a tuple means one row
      whose clients take turns, such as [32, 1, (1, 2, 32)]; by default one row,
      of the settings' precisions.
    seeds: whole numbers. From one alone there is no interval.
    settings: those that all runs share; by default the package's. Methods, bits
      and seeds replace what they say of these.
    workdir: where results go, a folder per run, with the tables and figures;
      None for nowhere.
    overrides: settings that differ, {method: {setting: value}}, with an option
      of a method as "method.option" or {"method": {"option": value}}. A name
      such as "quped_1" is the method at this precision alone. "method" in an
      entry makes it a variant of that method, under the entry's own name, and
      "bits" gives it precisions of its own.
    titles: {method or variant: what figures and LaTeX call it}.
    federation: used instead of those that the settings describe, if given.
    model: likewise.
    loss: of all runs, see `run`; a method's own is a setting in `overrides`.
    metrics: of all runs, see `run`; they are in each run's summary.
    quiet: whether nothing is shown meanwhile.
    restart: whether results of other runs in the workdir may be replaced.
    run_strategy: how runs of the same programs go, see `sweep`.
    callbacks: `run -> callbacks` makes those of a run that is to do, see
      `quped_jax.Callback`.
    **changes: settings by name, such as rounds=5, instead of those of
      `settings`.

  Returns:
    The comparison: its table, in a notebook at the end of a cell; figures by
    `plot`; and all runs.

  Raises:
    ValueError: anything that is not allowed, or a workdir with results of other
      runs, before a run starts.
    DivergenceError: see `run`.
    Interrupted: likewise.

  Examples:
    >>> settings = qj.Settings(clients=4, rounds=1, steps=2)
    >>> found = qj.compare(
    ...   ["local", "fedavg"], [32], seeds=[0], settings=settings, quiet=True
    ... )
    >>> [row["method"] for row in found.rows]
    ['local', 'fedavg']
    >>> found.difference("fedavg", "local").low  # one seed has no interval
    >>> print(found.to_latex(["accuracy"]).splitlines()[-3][:11])
    FedAvg & 32
  """
  if jax.process_count() > 1:
    raise ValueError(
      f"processes={jax.process_count()}: must be 1 for a comparison; each run "
      "of it may have several"
    )
  shared, own = own_functions.read(
    _settings(settings, changes, federation), loss, metrics
  )
  if workdir is None and shared.save_models != "none":
    raise ValueError(
      f"save_models={shared.save_models!r}: must be 'none' without a workdir"
    )
  config = {
    "base": shared.to_dict(),
    "methods": (methods,) if isinstance(methods, str) else tuple(methods),
    "bits": _rows("bits", [shared.bits] if bits is None else bits),
    "seeds": tuple(seeds) if isinstance(seeds, Iterable) else (seeds,),
    "overrides": {
      name: _override(f"overrides.{name}.bits", own)
      for name, own in (overrides or {}).items()
    },
    "titles": dict(titles or {}),
  }
  sources = many.Sources(federation, model, own)
  with _place(workdir) as folder:
    found = report.carry_out(
      config,
      folder,
      sources=sources,
      say=output.nothing if quiet else output.say,
      quiet=quiet,
      restart=restart,
      run_strategy=run_strategy,
      callbacks=callbacks,
    )
  if workdir is None:
    return found.nowhere()
  found.save(folder)
  return found


def _settings(
  settings: Settings | None,
  changes: Mapping[str, Any],
  federation: Federation | None,
) -> Settings:
  """The settings that all runs share."""
  for name in changes:
    if name in _ARGUMENTS:
      raise ValueError(
        f"{name}={checks.shown(changes[name])}: must be given as "
        f"{_ARGUMENTS[name]}"
      )
  if settings is not None:
    checks.instance("settings", settings, Settings, "Settings.from_dict")
    return Settings.from_dict(plan.merge(settings.to_dict(), changes))
  if isinstance(federation, Federation) and "clients" not in changes:
    held_out = changes.get("held_out_clients", 0)
    changes = {**changes, "clients": federation.num_clients - held_out}
  return Settings.from_dict(changes)


def _override(field: str, given: Mapping[str, Any]) -> dict[str, Any]:
  """An override in the shape of `plan`'s."""
  own = unflatten(flatten(given))
  if "bits" in own:
    own["bits"] = _rows(field, own["bits"])
  return own


def _rows(field: str, given: Any) -> str:
  """Precisions as text, with semicolons between rows.

  Args:
    field: what errors call them.
    given: text, one precision, or a list of rows.

  Raises:
    ValueError: a tuple, which elsewhere means clients in turn.
  """
  if isinstance(given, str):
    return given
  several = isinstance(given, tuple) and len(given) > 1
  if several and not any(isinstance(x, (tuple, list)) for x in given):
    raise ValueError(
      f"{field}={given!r}: must be a list, {list(given)} for {len(given)} "
      f"rows, or {[given]} for one whose clients take turns"
    )
  rows = scalars.plain(list(given) if isinstance(given, Iterable) else [given])
  return "; ".join(
    ",".join(map(str, row)) if isinstance(row, tuple) else str(row)
    for row in rows
  )


@contextlib.contextmanager
def _place(workdir: Path | None) -> Iterator[pathlib.Path]:
  """Where the runs go: the workdir, or a folder for as long as it takes."""
  if workdir is not None:
    yield paths.given("workdir", workdir)
    return
  folder = pathlib.Path(tempfile.mkdtemp(prefix="quped_compare_"))
  try:
    yield folder
  except BaseException as error:
    if any(folder.rglob("summary.json")) or any(folder.rglob("checkpoints")):
      error.add_note(
        f"what was run is in {folder}: the same call with this workdir goes on"
      )
    else:
      shutil.rmtree(folder)
    raise
  shutil.rmtree(folder)
