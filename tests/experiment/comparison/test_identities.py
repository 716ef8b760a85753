"""Identities of runs, computed together, are those of single runs."""

import dataclasses

import pytest

import quped_jax as qj
from quped_jax.experiment import identity
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison import identities, plan
from tests.experiment.comparison import small


@pytest.mark.slow
def test_they_are_those_of_single_runs(tmp_path):
  config = small.make_config(
    methods=("local", "quped", "fedgkt"),
    bits="32; 1",
    seeds=(0, 1),
    overrides={"fedgkt": {"bits": "32"}, "quped_1": {"hidden": (9, 9)}},
  )
  runs = plan.make_runs(config, tmp_path)
  found = identities.identities(runs)
  assert len(found) == 10
  for run, own in zip(runs, found, strict=True):
    assert own == identity.of_settings(run.settings)


def test_data_and_networks_are_computed_once(tmp_path, monkeypatch):
  calls = {"data": 0, "networks": 0}

  def counted(name, fn):
    def count(*args):
      calls[name] += 1
      return fn(*args)

    monkeypatch.setattr(identity, f"of_{name}", count)

  counted("data", identity.of_data)
  counted("networks", identity.of_networks)
  config = small.make_config(bits=("32",), seeds=(0, 1, 2))
  config["overrides"] = {"fedavg": {"hidden": (9, 9)}}
  # Seed by seed, or not.
  runs = plan.make_runs(config, tmp_path)
  identities.identities(sorted(runs, key=lambda run: run.row))
  assert calls == {"data": 3, "networks": 2}


class Recorded(qj.Settings):
  """Settings that say which of them were read."""

  def __getattribute__(self, name):
    if not name.startswith("_"):
      reads.add(name)
    return super().__getattribute__(name)


reads: set[str] = set()
FIELDS = {field.name for field in dataclasses.fields(qj.Settings)}


@pytest.mark.parametrize(
  "values",
  [
    {},
    {"public_size": 20, "partition": "dirichlet", "held_out_clients": 2},
    {"dataset": "synthetic"},
    {"budget_bytes": (10_000_000,), "candidates": "mlp(8,8), mlp(9,9)"},
    {"client_types": "3*mlp(8,8)@1, 2*mlp(9,9)@32", "shared_model": "mlp"},
  ],
)
def test_runs_that_share_what_is_computed_once_share_what_it_is_made_of(values):
  settings = Recorded(clients=5, method="local", **values)
  reads.clear()
  federation = build_federation(settings)
  assert reads & FIELDS <= set(identity.DATA_FIELDS)
  assert "seed" in reads
  reads.clear()
  build_clients(settings, federation)
  used = reads & FIELDS
  if settings.budget_bytes:
    used -= {"seed"}
  assert used and used <= set(identity.NETWORK_FIELDS)
