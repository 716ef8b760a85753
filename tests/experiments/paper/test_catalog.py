"""Tables: all of them hold what can be run."""

import os

import pytest

from experiments.paper import catalog, tuning
from quped_jax.experiment import many
from quped_jax.experiment.comparison import plan, tune

ALL = [(name, x) for name in catalog.names() for x in catalog.VARIANTS]


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_row_of_every_table_has_settings_that_are_allowed(name, variant):
  table = catalog.get(name, variant)
  assert table.parts and len(table.seeds) == len(set(table.seeds))
  for part in table.parts:
    assert plan.titles_of(part.config) is not None
    for row in part.rows:
      settings = plan.row_settings(part.config, row, 0)
      shared = part.shared(row)
      if part.is_tuned(row):
        assert tune.space_of(part.config["tune"], shared.method)
      # Who is tuned for itself shares with nobody further.
      assert part.shared(shared) == shared
      if (warm := part.warm(row)) is not None:
        own = plan.row_settings(part.config, warm, 0)
        assert own.save_models == "clients" and own.model == settings.model


def test_a_table_that_there_is_not_is_an_error_that_lists_them():
  with pytest.raises(ValueError, match="table='z': must be one of .*b_femnist"):
    catalog.get("z", "small")
  with pytest.raises(ValueError, match="variant='tiny': must be one of"):
    catalog.get("b_femnist", "tiny")


def test_a_small_variant_changes_what_it_names_and_keeps_the_rest():
  full = {"base": {"rounds": 9, "steps": 2}, "seeds": (0, 1)}
  small = {"base": {"rounds": 3}, "tune": {"gradients": 4}}
  assert catalog.merged(full, small) == {
    "base": {"rounds": 3, "steps": 2},
    "seeds": (0, 1),
    "tune": {"gradients": 4},
  }
  assert full["base"]["rounds"] == 9


def test_small_tables_have_the_rows_clients_and_data_of_full_ones():
  same = ("dataset", "clients", "partition", "classes_per_client", "seed")
  for name in catalog.names():
    small, full = (catalog.get(name, x) for x in catalog.VARIANTS)
    assert small.seeds == full.seeds
    for own, other in zip(small.parts, full.parts, strict=True):
      assert own.rows == other.rows
      for row in own.rows:
        ours = plan.row_settings(own.config, row, 0)
        theirs = plan.row_settings(other.config, row, 0)
        for field in same:
          assert getattr(ours, field) == getattr(theirs, field)


@pytest.mark.slow
@pytest.mark.skipif(
  not os.environ.get("QUPED_DATA_DIR"),
  reason="QUPED_DATA_DIR does not name a folder of datasets",
)
@pytest.mark.parametrize(
  "name",
  [
    # One that is divided by writer, and one with several parts.
    name
    if name in ("b_femnist", "c_mnist")
    else pytest.param(name, marks=pytest.mark.long)
    for name in catalog.names()
  ],
)
def test_data_and_networks_of_every_row_fit_before_anything_is_run(name):
  sources = many.Sources()
  table = catalog.get(name, "small")
  for part in table.parts:
    for row in part.rows:
      settings = plan.row_settings(part.config, row, table.seeds[0])
      assert sources.plan(settings).parts.built.method
      if part.is_tuned(row):
        assert tuning.budget(part, part.shared(row), sources).trials > 0
