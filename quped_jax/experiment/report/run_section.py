"""What a report says of one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from quped_jax.experiment import amounts
from quped_jax.experiment.figures import run_figures
from quped_jax.experiment.report import (
  curves,
  reproduce,
  run_settings,
  tables,
)
from quped_jax.experiment.report.drawings import Numbering, caption_of
from quped_jax.experiment.report.markup import Markup, element, join
from quped_jax.experiment.report.workdirs import Run
from quped_jax.experiment.scores import Score

# Of more clients, the table is folded at first.
_FEW_CLIENTS = 200
_STATISTICS = {
  "mean": "mean",
  "std": "standard deviation",
  "worst": "worst client",
  "p10": "10th percentile",
  "best": "best client",
}
_OF_METRICS = {
  "min": "smallest",
  "p90": "90th percentile",
  "max": "largest",
  **{name: _STATISTICS[name] for name in ("std", "p10")},
}
_SIZES = ("model_bytes",)
_WORDS = ("client", "model", "groups")


def sections(run: Run, numbering: Numbering) -> list[tuple[str, Markup]]:
  """The parts of what is said of a run.

  Args:
    run: what it left.
    numbering: of the page's figures.

  Returns:
    (heading, content) of each part.
  """
  parts = [("Summary", _summary(run))]
  if run.summary is not None:
    parts.append(("Model sizes", _types(run, run.summary)))
  parts.append(("Figures", _figures(run, numbering)))
  if run.clients:
    parts.append(("Clients", _clients(run)))
  if run.settings:
    parts.append(("Settings", run_settings.section(run.settings)))
  return [*parts, ("Reproduce", reproduce.section(run))]


def shown(score: Score, value: float | None) -> str:
  """A score with its unit; a dash where there is none."""
  if value is None:
    return "\N{EN DASH}"
  return score.number(value) + " %" * score.percent


def traffic(summary: Mapping[str, Any]) -> str:
  """What a client receives and sends in a round, on average."""
  down, up = amounts.size(summary["bytes_down"]), summary["bytes_up"]
  return f"{down} down, {amounts.size(up)} up"


def durations(summary: Mapping[str, Any]) -> str:
  """How long a round took, and the whole run."""
  timing = summary["timing"]
  each, whole = timing["seconds_per_round"], timing["total_seconds"]
  return f"{amounts.time(each)} per round, {amounts.time(whole)} in all"


def diverged(summary: Mapping[str, Any]) -> str:
  """How many clients ever diverged, and which if they are few."""
  clients = [str(x["client"]) for x in summary["diverged"]]
  if not clients:
    return "none"
  few = f": {', '.join(clients)}" if len(clients) <= 5 else ""
  return f"{len(clients):,} of {summary['clients']:,}{few}"


def privacy(summary: Mapping[str, Any]) -> str:
  """The guarantee of differential privacy."""
  found = summary["privacy"]
  if not found:
    return "none"
  epsilon = found["epsilon"]
  loss = "infinite" if epsilon is None else f"{epsilon:.3g}"
  return f"epsilon {loss} at delta {found['delta']:g}, by client"


def _summary(run: Run) -> Markup:
  if run.summary is None:
    return _unfinished(run)
  summary, score = run.summary, run.score
  variant = summary["primary_variant"]
  primary = summary[score.name][variant]
  title = amounts.capital(score.title)
  cards = [
    (
      f"{title}, {variant} model",
      join(
        element("strong", shown(score, primary.get("mean"))),
        f" \N{PLUS-MINUS SIGN} {score.number(primary['std'])}"
        if primary.get("std") is not None
        else "",
      ),
    ),
    ("Worst client", element("strong", shown(score, primary.get("worst")))),
    ("Bytes per client and round", traffic(summary)),
    ("Time", durations(summary)),
    ("Diverged clients", diverged(summary)),
    ("Privacy", privacy(summary)),
  ]
  about = (
    f"{run.title} on {summary['dataset']}: "
    f"{amounts.count(summary['clients'], 'client')}, "
    f"{amounts.count(summary['rounds'], 'round')}, network "
    f"{summary['model']}, seed {summary['seed']}."
  )
  note = (
    f"{title} is on each client's own test samples after the last round; "
    f"after \N{PLUS-MINUS SIGN}, the standard deviation over clients. The "
    f"{variant} model is the variant to compare."
  )
  return join(
    element("p", about),
    element("div", tables.facts(cards), class_="cards"),
    element("p", note, class_="note"),
    _variants(run, summary, score),
    _more_metrics(summary),
    _diverged_table(summary),
    tables.fold("Time and memory", _costs(summary)),
  )


def _unfinished(run: Run) -> Markup:
  """What is known of a run that has no summary yet."""
  last, rounds = run.last_round(), run.settings.get("rounds")
  of = f" of {rounds}" if rounds else ""
  far = (
    f"Evaluated last after round {last}{of}."
    if last
    else "No round is evaluated yet."
  )
  rows = [
    [name, shown(run.score, run.history[-1][f"test/{name}"])]
    for name in run.variants
  ]
  title = f"{run.score.title}, mean over clients"
  return join(
    element(
      "p",
      element("strong", "This run is not finished."),
      f" It has no summary.json: it was interrupted, or still runs. {far} ",
      "The same command goes on from its last checkpoint, if there is one.",
      class_="warning",
    ),
    tables.table(
      f"Scores after round {last}", ("variant", title), rows, names=1
    )
    if rows
    else "",
  )


def _variants(run: Run, summary: Mapping[str, Any], score: Score) -> Markup:
  """How each variant's scores are spread over clients."""

  def row(name, spread):
    return [name, *(shown(score, spread.get(x)) for x in _STATISTICS)]

  found = summary[score.name]
  order = [x for x in run.variants if x in found]
  order += [x for x in found if x not in order]
  rows = [row(x, found[x]) for x in order]
  held_out = summary["held_out_clients"].items()
  rows += [row(f"{name}, held-out clients", x) for name, x in held_out]
  best = summary.get(f"{score.name}_best_round")
  if best:
    variant = summary["primary_variant"]
    where = f"{variant}, after round {summary['best_round']}"
    rows.append(row(f"{where}, chosen on validation data", best[variant]))
  titles = ("variant", *_STATISTICS.values())
  return tables.table(
    amounts.capital(f"{score.title} over clients"), titles, rows
  )


def _more_metrics(summary: Mapping[str, Any]) -> Markup:
  """Measures beside the score, if there are any."""
  found = {
    f"{measure}, {variant}": spread
    for measure, variants in summary.get("metrics", {}).items()
    for variant, spread in variants.items()
  }
  titles = dict.fromkeys(name for spread in found.values() for name in spread)
  rows = [
    [name, *(_digits(spread.get(x)) for x in titles)]
    for name, spread in found.items()
  ]
  if not rows:
    return Markup()
  words = (_OF_METRICS.get(name, name) for name in titles)
  return tables.table("Further metrics", ("metric", *words), rows)


def _digits(value: float | None) -> str:
  return "\N{EN DASH}" if value is None else amounts.measured(value)


def _diverged_table(summary: Mapping[str, Any]) -> Markup:
  rows = [
    [x["client"], x["rounds"], x["in_a_row"]] for x in summary["diverged"]
  ]
  if not rows:
    return Markup()
  titles = "client", "rounds undone", "most in a row"
  return tables.fold(
    f"Diverged clients ({len(rows):,})",
    tables.table("Diverged clients", titles, rows),
  )


def _costs(summary: Mapping[str, Any]) -> Markup:
  timing, memory = summary["timing"], summary.get("memory", {})
  peaks = {
    "Memory of a round's program": "round_bytes",
    "Most memory of the process": "peak_rss_bytes",
    "Most memory of a device": "device_peak_bytes",
    "States of all clients": "client_state_bytes",
    "Samples": "data_bytes",
  }
  return tables.facts(
    [
      (
        "Gradients per client and round",
        amounts.plain(summary["gradients"]),
      ),
      ("Compiling", amounts.time(timing["compile_seconds"])),
      ("Strategy", timing.get("strategy")),
      ("Clients at once", timing.get("clients_at_once")),
      ("Devices", timing.get("devices")),
      *((name, amounts.size(memory.get(x))) for name, x in peaks.items()),
    ]
  )


def _types(run: Run, summary: Mapping[str, Any]) -> Markup:
  """Sizes of the clients' models by type, and the files that there are."""
  score, variant = run.score, summary["primary_variant"]
  rows = [
    [
      name,
      f"{x['clients']:,}",
      amounts.size(x.get("model_bytes")),
      amounts.size(x.get("bytes_down")),
      amounts.size(x.get("bytes_up")),
      shown(score, x[score.name].get(variant, {}).get("mean")),
    ]
    for name, x in summary["client_types"].items()
  ]
  titles = [
    "type", "clients", "model", "down per round", "up per round", score.title
  ]  # fmt: skip
  keep = [
    i for i in range(len(titles)) if not rows or any(row[i] for row in rows)
  ]
  rows = [[row[i] for i in keep] for row in rows]
  return join(
    tables.table(
      "Clients by network and bits", [titles[i] for i in keep], rows
    ),
    _files(run),
  )


def _files(run: Run) -> Markup:
  """The packed models that the run saved."""
  files = sorted((run.folder / "models").glob("*.safetensors"))
  if not files:
    return Markup()
  total = sum(path.stat().st_size for path in files)
  where = element("code", run.folder / "models")
  said = f"{amounts.count(len(files), 'packed model')}, {amounts.size(total)}"
  return element("p", f"{said} in all, in ", where, ".")


def _figures(run: Run, numbering: Numbering) -> Markup:
  if run.summary is not None:
    # Files do not say who has which samples: the run drew it itself.
    partition = run.folder / "figures" / "partition.svg"
    return numbering.draw(
      lambda: {
        caption_of(name): figure
        for name, figure in run_figures.plot_run(run.folder).items()
      },
      [partition] if partition.is_file() else [],
    )
  if not run.variants:
    return element("p", "There is nothing to draw yet.")
  return numbering.draw(
    lambda: {
      amounts.capital(f"{run.score.title} over rounds, so far"): curves.draw(
        {name: run.history for name in run.variants},
        {name: f"test/{name}" for name in run.variants},
        run.score,
        "mean over clients",
      )
    }
  )


def _clients(run: Run) -> Markup:
  """All columns of `clients.csv`, sortable."""
  score = run.score
  names = list(run.clients[0])
  # Names of groups are text, wherever they stand.
  order = [x for x in _WORDS if x in names]
  columns = order + [x for x in names if x not in order]
  rows = [
    [_cell(name, row[name], score, run.variants) for name in columns]
    for row in run.clients
  ]
  titles = [_title(name, score, run.variants) for name in columns]
  table = tables.table("Clients", titles, rows, names=len(order), sortable=True)
  count = amounts.count(len(rows), "client")
  few = len(rows) <= _FEW_CLIENTS
  return tables.fold(f"Table of {count}", table, opened=few)


def _title(name: str, score: Score, variants: Sequence[str]) -> str:
  if name in variants:
    return f"{name}, {score.title}" + ", %" * score.percent
  if name in _SIZES:
    return "model, bytes"
  return name.replace("_", " ").replace("/", ", ")  # A metric, of a variant.


def _cell(name: str, text: str, score: Score, variants: Sequence[str]) -> str:
  if text in ("nan", ""):
    return "\N{EN DASH}"
  if name in variants:
    return score.number(float(text))
  if name in _SIZES and text.isdigit():
    return f"{int(text):,}"
  if "/" not in name:
    return text
  try:
    return amounts.measured(float(text))
  except ValueError:
    return text
