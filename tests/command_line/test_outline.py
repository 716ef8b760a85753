"""What a run will be: numbers that are those of the run, and nothing run."""

import dataclasses
import json

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.command_line import outline
from quped_jax.experiment.assemble import assemble

SETTINGS = qj.Settings(
  clients=6,
  held_out_clients=1,
  classes_per_client=4,
  validation_fraction=0.2,
  public_size=50,
  participation=(0.5,),
  bits=(1, 2, 32),
  hidden=(16, 16),
  batch_size=4,
  steps=2,
  rounds=3,
  devices=1,
)


@pytest.fixture(scope="module")
def made():
  return assemble(SETTINGS)


def test_it_says_what_the_run_is_made_of(made):
  said = dict(outline.facts(made))
  assert outline.title(made) == (
    "quped on digits, mlp, 1, 2, 32 bits: 3 rounds of 2 steps with batches of 4"
  )
  assert said["clients"] == (
    "6, of which 3 take part in a round, on average; 1 held out besides"
  )
  train = np.asarray(made.federation.train.count)[:6]
  assert f"{train.min()} to {train.max()} training, " in said["partition"]
  assert "pathological: " in said["partition"]
  assert " validation, " in said["partition"]
  assert said["partition"].endswith("4 of 10 classes for each client")
  assert said["public"] == "50 samples with labels"
  assert "256 of 1,482 weights" in said["network"]
  sizes = made.model_bytes()
  assert f"{sizes.min() / 1000:.3g} KB to" in said["packed model"]
  up = made.simulation.bytes_up
  assert f"{up / 1000:.3g} KB up for a client" in said["a round"]
  assert f"{3 * up / 1000:.3g} KB for all" in said["a round"]
  estimate = made.simulation.memory
  assert f"an estimated {estimate / 1000:.3g} KB on each" in said["memory"]
  assert said["strategy"].startswith("auto: 1 client at once on one device (")


def test_the_table_has_a_row_for_each_client(made):
  table = outline.client_table(made)
  columns = {c.header: list(c.cells) for c in table.columns}
  assert columns["client"] == list("012345")
  assert columns["bits"] == ["1", "2", "32"] * 2
  assert columns["classes"] == ["4"] * 6
  assert columns["model bytes"] == [f"{x:,}" for x in made.model_bytes()]
  for name, split in (
    ("training", "train"), ("validation", "validation"), ("test", "test")
  ):  # fmt: skip
    counts = np.asarray(getattr(made.federation, split).count)[:6]
    assert columns[name] == [str(x) for x in counts]
  assert not table.caption and "network" not in columns


def test_of_many_clients_only_the_first_are_shown():
  settings = qj.Settings(
    dataset="synthetic", clients=1000, batch_size=4, client_state="host"
  )
  made = assemble(settings)
  table = outline.client_table(made)
  assert len(table.rows) == 20 and table.caption == "and 980 more clients"
  # Synthetic samples are not looked at.
  assert "classes" not in [column.header for column in table.columns]
  assert "100 training, 20 test samples for each" in dict(
    outline.facts(made)
  )["partition"]  # fmt: skip


@pytest.mark.slow
def test_clients_of_several_networks_say_which(made):
  settings = dataclasses.replace(
    SETTINGS, client_types="3*mlp(8,8)@2, 3*mlp(16,16)@32"
  )
  several = assemble(settings)
  (column,) = [
    c for c in outline.client_table(several).columns if c.header == "network"
  ]
  assert list(column.cells) == ["mlp(8,8)"] * 3 + ["mlp(16,16)"] * 3
  assert [name for name, _ in outline.facts(several)].count("network") == 2


def test_a_method_that_sends_nothing_says_so():
  alone = qj.Settings(dataset="synthetic", clients=2, method="local", steps=1)
  assert dict(outline.facts(assemble(alone)))["a round"] == "nothing is sent"


def test_nothing_is_compiled(made):
  list(outline.facts(made))
  assert made.simulation.program.compilations == 0


@pytest.mark.slow
def test_the_numbers_are_those_of_the_run(tmp_path):
  settings = dataclasses.replace(SETTINGS, rounds=1, participation=())
  said = dict(outline.facts(assemble(settings)))
  summary = qj.run(settings, tmp_path).summary
  assert f"{summary['bytes_up'] / 1000:.3g} KB up" in said["a round"]
  written = json.loads((tmp_path / "summary.json").read_text())
  estimate = written["memory"]["estimated_round_bytes"]
  assert f"{estimate / 1000:.3g} KB on each" in said["memory"]
