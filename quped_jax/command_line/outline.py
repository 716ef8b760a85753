"""What a run will be, before it is run: clients, data, bytes, memory."""

from collections.abc import Iterator

import numpy as np
import rich.console
import rich.table
import rich.text

from quped_jax.data.federation import Federation, Pool
from quped_jax.experiment import amounts, blocks, quantized_tensors, summary
from quped_jax.experiment.assemble import Assembly
from quped_jax.quantization import codebook

# Clients that the table has; of more, only the first.
_SHOWN = 20


def show(made: Assembly, console: rich.console.Console) -> None:
  """Prints what a run will be.

  Args:
    made: the run, of which nothing is compiled.
    console: where it is printed.
  """
  grid = rich.table.Table.grid(padding=(0, 2))
  for name, words in facts(made):
    grid.add_row(name, rich.text.Text(words))
  console.print(title(made), soft_wrap=True, markup=False, highlight=False)
  console.print(grid)
  blocks.print_table(console, client_table(made))


def facts(made: Assembly) -> Iterator[tuple[str, str]]:
  """What a run will be, but for single clients: names, and words on each.

  Args:
    made: the run.
  """
  yield "clients", _clients(made)
  yield from _data(made)
  for note in quantized_tensors.notes(made):
    yield "network", note
  yield (
    "packed model",
    f"{_spread(made.model_bytes(), amounts.size)} for each client",
  )
  yield "a round", _traffic(made)
  yield "memory", _memory(made)
  yield "strategy", _strategy(made)


def title(made: Assembly) -> str:
  """What is run, in a line."""
  settings = made.settings
  return (
    f"{settings.method} on {made.federation.name}, "
    f"{summary.model_name(made)}, {codebook.describe_bits(settings.turns)}: "
    f"{amounts.count(settings.rounds, 'round')} of "
    f"{_steps(made)} with batches of "
    f"{settings.batch_size}"
  )


def _steps(made: Assembly) -> str:
  """How many local steps clients take."""
  most = amounts.count(made.settings.steps, "step")
  own = made.population.participation.own_steps
  if own is None or own.min() == own.max():
    return most
  return f"{int(own.min()):,} to {most}"


def _clients(made: Assembly) -> str:
  settings = made.settings
  mean = made.population.participation.mean(settings.clients)
  words = f"{settings.clients:,}"
  if mean < settings.clients:
    words += f", of which {mean:,.6g} take part in a round, on average"
  if settings.held_out_clients:
    words += f"; {settings.held_out_clients:,} held out besides"
  return words


def _data(made: Assembly) -> Iterator[tuple[str, str]]:
  """Who holds which samples, in numbers over the clients that train."""
  federation = made.federation.first(made.settings.clients)
  counts = split_counts(federation)
  held = ", ".join(
    f"{_spread(count)} {name}"
    for name, count in counts.items()
    if name != "validation" or count.any()
  )
  words = f"{made.settings.partition}: {held} samples"
  classes = class_counts(federation)
  if classes is not None:
    words += f", {_spread(classes)} of {federation.num_classes} classes"
  yield "partition", f"{words} for each client"
  if federation.public is not None:
    labelled = "with" if federation.public.labelled else "without"
    yield "public", f"{federation.public.size:,} samples {labelled} labels"


def _traffic(made: Assembly) -> str:
  """What a round sends, for a client and for all that take part in it."""
  simulation = made.simulation
  count = made.population.participation.mean(made.settings.clients)
  down, up = simulation.bytes_down, simulation.bytes_up
  if not (down or up):
    return "nothing is sent"
  return (
    f"{amounts.size(down)} down and {amounts.size(up)} up for a client, "
    f"{amounts.size(count * down)} and {amounts.size(count * up)} for all that "
    "take part"
  )


def _strategy(made: Assembly) -> str:
  layout = made.simulation.layout
  where = "one device"
  if layout.devices > 1:
    where = f"each of {layout.devices} devices"
  return (
    f"{made.settings.strategy}: "
    f"{amounts.count(layout.chunk_size, 'client')} at once on {where} "
    f"({layout.why})"
  )


def _memory(made: Assembly) -> str:
  simulation = made.simulation
  return (
    f"an estimated {amounts.size(simulation.memory)} on each device; all "
    f"clients' states are {amounts.size(simulation.state_bytes)}, samples "
    f"{amounts.size(simulation.data_bytes)}"
  )


def split_counts(federation: Federation) -> dict[str, np.ndarray]:
  """How many samples each client has: {split: `[clients]`}."""
  return {
    "training": np.asarray(federation.train.count),
    "validation": np.asarray(federation.validation.count),
    "test": np.asarray(federation.test.count),
  }


def class_counts(federation: Federation) -> np.ndarray | None:
  """How many classes each client trains on, `[clients]`; None if unknown."""
  source, split = federation.source, federation.train
  if not isinstance(source, Pool) or split.rows is None:
    return None
  labels = np.asarray(source.labels)
  if labels.ndim != 1 or labels.dtype.kind not in "iu":
    return None
  rows = np.asarray(split.rows)
  return np.array(
    [
      len(np.unique(labels[rows[begin : begin + count]]))
      for begin, count in zip(
        np.asarray(split.offset), np.asarray(split.count), strict=True
      )
    ]
  )


def client_table(made: Assembly) -> rich.table.Table:
  """A row for each client, of the first ones: what it has."""
  settings, several = made.settings, len(made.models.clients) > 1
  shown = min(settings.clients, _SHOWN)
  federation = made.federation.first(settings.clients)
  columns = {
    "client": range(shown),
    "bits": made.assignment.bits[:shown],
    **split_counts(federation),
  }
  classes = class_counts(federation)
  if classes is not None:
    columns["classes"] = classes
  own_steps = made.population.participation.own_steps
  if own_steps is not None:
    columns["steps"] = np.asarray(own_steps)
  columns["model bytes"] = [f"{size:,}" for size in made.model_bytes()[:shown]]
  if several:
    types = made.assignment.client_types
    columns["network"] = [
      str(types[i].network) for i in made.assignment.of_client[:shown]
    ]
  table = blocks.make_table()
  for name in columns:
    table.add_column(name, justify="left" if name == "network" else "right")
  for cells in zip(*(list(x)[:shown] for x in columns.values()), strict=True):
    table.add_row(*map(str, cells))
  if shown < settings.clients:
    table.caption = f"and {settings.clients - shown:,} more clients"
  return table


def _spread(values: np.ndarray, text=lambda x: f"{x:,}") -> str:
  """A value, or the least and the most, of all clients."""
  least, most = values.min(), values.max()
  return text(least) if least == most else f"{text(least)} to {text(most)}"
