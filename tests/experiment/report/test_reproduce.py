"""What reproduces a run: the command means the run's settings."""

import shlex

import pytest

import quped_jax as qj
from quped_jax.command_line import named
from quped_jax.experiment.report import reproduce, workdirs
from tests.experiment.report import made


def read(folder, **settings) -> workdirs.Run:
  return made.read(made.run(folder, **settings))


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"method": "fedavg", "clients_per_round": 3, "bits": (1, 2, 32)},
    {"quped": {"lambda_p": 0.25, "global_loss": "distill+labels"}},
    {"data_dir": "a folder/it's", "model": "mlp", "hidden": (8, 8)},
    {"learning_rate": (0.05, 1e-5), "checkpoint_every": 2, "figures": False},
  ],
)
def test_the_command_means_the_settings(tmp_path, settings):
  run = read(tmp_path / "run", **settings)
  program, command, workdir, *words = shlex.split(
    reproduce.command(run.settings).replace("\\\n", "")
  )
  assert (program, command) == ("quped", "run")
  assert workdir.startswith("--workdir=")
  values = named.values_of(named.pairs(words))
  meant = qj.Settings.from_dict(values)
  # Of a method that is not run there are no options.
  assert meant.to_dict() == qj.Settings.from_dict(run.settings).to_dict()


def test_what_was_given_in_python_is_named(tmp_path):
  run = read(tmp_path / "run")
  assert reproduce.given_as_objects(run) == []
  assert "does not suffice" not in reproduce.section(run)
  other = read(tmp_path / "other", summary={"dataset": "mine", "model": "net"})
  found = reproduce.given_as_objects(other)
  assert any("'mine'" in x for x in found) and any("'net'" in x for x in found)
  later = run._replace(identity={"initial state": "abc"})
  assert len(reproduce.given_as_objects(later)) == 1
  own = {"loss function": "hash ab", "metric off": "hash cd"}
  assert reproduce.given_as_objects(run._replace(identity=own)) == [
    "the loss", "the metric 'off'"
  ]  # fmt: skip
  assert "does not suffice" in reproduce.section(other)


def test_versions_are_those_of_the_run(tmp_path):
  run = read(tmp_path / "run")
  for words in ("3.11.2", "0.10.2", "quped_jax", "cpu", "abcdef"):
    assert words in reproduce.section(run)
  # An unfinished run has recorded those of its identity alone.
  before = reproduce.versions(run._replace(summary=None))
  assert "0.10.2" in before and "3.11.2" not in before
  nothing = reproduce.versions(run._replace(summary=None, identity={}))
  assert "not recorded" in nothing
