"""The tables that a run leaves."""

import csv
import json

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.command_line import outline
from quped_jax.experiment import summary
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.metrics import Writer
from tests import tiny


def rows(groups, scheme):
  inputs = np.random.default_rng(0).normal(size=(48, 3))
  data = qj.from_arrays(inputs, np.arange(48) % 2, groups=groups)
  parts = qj.partition(data, scheme, 2, groups_per_client=2, seed=1)
  made = assemble(
    qj.Settings(clients=2, hidden=(3,), bits=(32,)),
    federation=qj.make_federation(data, parts),
  )
  return summary.client_rows(made, {"personalized": np.ones(2)}, {})


@pytest.mark.parametrize(
  ("ids", "names"),
  [
    (["b;1", '"a', "c", "ü"], {"b;1", '"a', "c", "ü"}),
    ([-1.0, 2.5, 3.0, 10**12], {"-1", "2.5", "3", "1000000000000"}),
    ([4, 5, 6, 7], {"4", "5", "6", "7"}),
  ],
)
def test_clients_have_the_names_of_their_groups(ids, names, tmp_path):
  found = rows([ids[i // 12] for i in range(48)], "natural")
  cells = [row["groups"] for row in found]
  assert {name for own in cells for name in own} == names
  assert all(len(own) == 2 for own in cells)
  Writer(tmp_path).clients(found)
  with open(tmp_path / "clients.csv", newline="") as file:
    assert [json.loads(row["groups"]) for row in csv.DictReader(file)] == cells
  assert (tmp_path / "clients.csv").read_text().splitlines()[0] == (
    "client,model,bits,model_bytes,train_samples,test_samples,groups,"
    "personalized"
  )


def test_clients_with_steps_of_their_own_have_a_column_of_them():
  made = assemble(
    qj.Settings(
      clients=2, epochs=2, epochs_of="each", batch_size=4, hidden=(3,), bits=32
    ),
    federation=tiny.make_federation((8, 20)),
  )
  found = summary.client_rows(made, {}, {})
  assert [row["steps"] for row in found] == [4, 10]
  assert [row["train_samples"] for row in found] == [8, 20]
  assert outline.title(made).endswith(
    "40 rounds of 4 to 10 steps with batches of 4"
  )
  steps = {c.header: list(c.cells) for c in outline.client_table(made).columns}
  assert steps["steps"] == ["4", "10"]


def test_where_clients_share_groups_there_are_none():
  assert "groups" not in rows(list("abcd") * 12, "iid")[0]
