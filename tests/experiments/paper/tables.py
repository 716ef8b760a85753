"""A table that is small enough for tests."""

from experiments.paper.catalog import Part, Table

CONFIG = {
  "base": {
    "clients": 3,
    "classes_per_client": 4,
    "rounds": 2,
    "steps": 2,
    "batch_size": 4,
    "hidden": (8, 8),
    "devices": 1,
  },
  "methods": ("quped", "local"),
  "bits": "32; 2",
  "seeds": (0, 1),
  "overrides": {},
  "titles": {"quped": "Ours"},
  "share": {"local_32": "local_2"},
  "tune": {
    # Of a client: three trials of local training in full precision.
    "gradients": 12,
    "halving": 0,
    "seeds": (0,),
    "rounds": 2,
    "validation_fraction": 0.3,
    "spaces": {"local": {"learning_rate": (0.01, 0.1, 0.2, 0.4)}},
  },
}


def table(**changes):
  """The table, with other fields of its config."""
  return Table("test", "small", (Part("", {**CONFIG, **changes}),))
