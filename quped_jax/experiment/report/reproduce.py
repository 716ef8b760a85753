"""What it takes to get a run's results again: command, versions, data."""

import shlex
from typing import Any

from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment.report import tables
from quped_jax.experiment.report.markup import Markup, element, join
from quped_jax.experiment.report.run_settings import said, written
from quped_jax.experiment.report.workdirs import Run
from quped_jax.experiment.report.workdirs import said as text_of

_WORKDIR = "results/again"
_VERSIONS = {
  "quped_jax": identity_lib.VERSION,
  "jax": identity_lib.JAX,
}


def command(settings: dict[str, Any]) -> str:
  """The command that runs these settings, over several lines."""
  words = ["quped run", f"--workdir={_WORKDIR}"]
  words += [
    shlex.quote(f"--{x.name}={written(x.value)}")
    for x in said(settings)
    if x.differs
  ]
  return " \\\n  ".join(words)


def given_as_objects(run: Run) -> list[str]:
  """What the run was given in Python, which no command can say."""
  found = []
  summary, settings = run.summary or {}, run.settings
  if "dataset" in summary and summary["dataset"] != settings.get("dataset"):
    found.append(f"the data, called {summary['dataset']!r}")
  # Several networks are all named in a summary.
  alone = not any(settings.get(name) for name in ("client_types", "candidates"))
  if "model" in summary and alone and summary["model"] != settings.get("model"):
    found.append(f"the network, called {summary['model']!r}")
  if identity_lib.LOSS in run.identity:
    found.append("the loss")
  own = f"{identity_lib.METRIC} "
  found += [
    f"the metric {name.removeprefix(own)!r}"
    for name in run.identity
    if name.startswith(own)
  ]
  state = run.identity.get(identity_lib.STATE, identity_lib.FRESH)
  if state != identity_lib.FRESH:
    found.append("the state from which the run began")
  return found


def section(run: Run) -> Markup:
  """Command, versions, and what must be the same for the same results."""
  words = []
  if run.settings:
    words.append(
      tables.box(
        "Command", element("pre", element("code", command(run.settings)))
      )
    )
  if objects := given_as_objects(run):
    words.append(
      element(
        "p",
        "The command does not suffice. Given in Python, and not by settings: "
        f"{', '.join(objects)}.",
      )
    )
  words += [versions(run), _identity(run)]
  return join(*words)


def versions(run: Run) -> Markup:
  """Versions and devices, as far as the run recorded them."""
  found = dict((run.summary or {}).get("environment", {}))
  for name, key in _VERSIONS.items():
    if key in run.identity:
      found.setdefault(name, run.identity[key])
  if not found:
    return element("p", "The versions are not recorded.")
  rows = [[name, text_of(value)] for name, value in found.items()]
  return tables.table("Versions and devices", ("name", "value"), rows, names=2)


def _identity(run: Run) -> Markup:
  """The part of the identity that is no setting."""
  rows = [
    [name, element("code", text_of(value))]
    for name, value in run.identity.items()
    if name not in run.settings and name not in _VERSIONS.values()
  ]
  if not rows:
    return Markup()
  return tables.fold(
    "What else the results follow from",
    element(
      "p",
      "Hashes of data, networks and code, from identity.json. A run whose "
      "identity.json is the same has the same results.",
    ),
    tables.table("Identity", ("part", "value"), rows, names=2),
  )
