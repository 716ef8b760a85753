"""Former names are errors in settings, and are read in files of runs."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import pytest

import quped_jax as qj
from quped_jax.experiment import former_names, identity
from quped_jax.experiment.comparison import plan, runs

# What a run of `settings` left in the last version that had the former names:
# its config, the content of its checkpoint of round 3, and its summary.
FORMER = json.loads(
  pathlib.Path(__file__).with_name("former_run.json").read_text()
)
QUIET = qj.Display(quiet=True)

# What states hold since then.
LATER = (".monitor.server_step", ".monitor.refused")


def settings() -> qj.Settings:
  return qj.Settings(
    clients=2,
    partition="iid",
    hidden=(8, 8),
    bits=(2, 32),
    rounds=6,
    steps=2,
    batch_size=4,
    finetune_at=2,
    recalibration_batches=1,
    held_out_clients=1,
    held_out_client_steps=2,
    devices=1,
    checkpoint_every=1,
    keep_checkpoints=6,
  )


def plain_identity(settings):
  """What results follow from of settings, as it is read back from a file."""
  return json.loads(json.dumps(settings.identity()))


@pytest.mark.parametrize(
  ("name", "value", "present"),
  [
    ("kinds", "40*mlp@1", "client_types"),
    ("new_clients", 1, "held_out_clients"),
    ("new_client_steps", 1, "held_out_client_steps"),
    ("attackers", 1, "byzantine_clients"),
  ],
)
def test_a_former_name_is_an_error_that_gives_the_present_one(
  name, value, present
):
  message = f"{name}={value!r}: is called {present} now"
  values: dict[str, Any] = {name: value}
  for attempt in (
    lambda: qj.Settings(**values),
    lambda: qj.Settings.from_dict(values),
    lambda: dataclasses.replace(qj.Settings(), **values),
  ):
    with pytest.raises(ValueError) as error:
      attempt()
    assert str(error.value) == message
  assert hasattr(qj.Settings(), present) and not hasattr(qj.Settings(), name)


def test_a_config_of_former_names_is_one_of_the_same_settings():
  read = former_names.renamed(FORMER["config"], former_names.SETTINGS)
  again = qj.Settings.from_dict(read).to_dict()
  # Settings that change no result may differ.
  again.update(keep_checkpoints=2)
  expected = dataclasses.replace(settings(), keep_checkpoints=2).to_dict()
  assert again == expected


def test_of_a_finished_run_of_former_names_only_the_settings_are_known(
  tmp_path,
):
  made = dataclasses.replace(settings(), keep_checkpoints=2)
  here = identity.of_settings(made)
  run = runs.Run(plan.Row("quped", (2, 32)), made, tmp_path, "a run")
  (tmp_path / "summary.json").write_text(json.dumps(FORMER["summary"]))
  (tmp_path / "config.json").write_text(json.dumps(FORMER["config"]))
  there = identity.recorded(tmp_path, here)
  assert there == plain_identity(made)
  message = "1 of the 1 runs .* code of the method is not known there and"
  with pytest.raises(ValueError, match=message):
    runs.to_do([run])
  assert runs.to_do([run], restart=True) == [runs.Pending(run, resume=False)]
  other = dataclasses.replace(made, held_out_clients=2)
  differ = identity.differences(there, identity.of_settings(other))
  assert "held_out_clients is 1 there and 2 here" in differ
  summary = runs.summary_of(run)
  assert summary["primary_variant"] == "quantized"
  assert set(summary["client_types"]) == {"mlp(8,8)@2", "mlp(8,8)@32"}
  assert summary["held_out_clients"] == FORMER["summary"]["new_clients"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  result = qj.run(settings(), workdir, display=QUIET)
  return workdir, result


@pytest.mark.slow
def test_a_checkpoint_of_former_names_is_read_under_present_ones(finished):
  workdir, result = finished
  path = workdir / "checkpoints" / "round_00000003" / "progress.json"
  present = json.loads(path.read_text())
  read = former_names.renamed_checkpoint(FORMER["progress"])
  del read["identity"]["version of quped_jax"]
  # What it says of data and networks does not suffice to go on from it.
  assert read["identity"] == plain_identity(settings())
  assert read["identity"].items() < present["identity"].items()
  present["arrays"] = [x for x in present["arrays"] if x[0] not in LATER]
  assert read["arrays"] == present["arrays"]
  assert {*read["progress"], "figures"} == set(present["progress"])
  assert read["progress"]["finetuning"] is True
  assert set(result.summary) - {"environment"} == set(
    former_names.renamed(FORMER["summary"], former_names.SUMMARY)
  )


def with_former_names(values, names):
  former = {present: name for name, present in names.items()}
  return {former.get(name, name): value for name, value in values.items()}


def rewrite(checkpoint: pathlib.Path) -> None:
  """Gives a checkpoint the former names, as if it had been written then."""
  path = checkpoint / "progress.json"
  content = json.loads(path.read_text())
  content["identity"] = with_former_names(
    content["identity"], former_names.SETTINGS
  )
  content["progress"] = with_former_names(
    content["progress"], former_names.PROGRESS
  )
  for array in content["arrays"]:
    for name, present in former_names.STATE.items():
      if array[0].startswith(present):
        array[0] = name + array[0].removeprefix(present)
  path.write_text(json.dumps(content))
  manifest = json.loads((checkpoint / "manifest.json").read_text())
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  manifest["files"][path.name] = [path.stat().st_size, digest]
  (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_of_former_names(finished, tmp_path):
  workdir, result = finished
  again = tmp_path / "again"
  shutil.copytree(workdir, again)
  for path in sorted((again / "checkpoints").iterdir())[3:]:
    shutil.rmtree(path)
  checkpoint = again / "checkpoints" / "round_00000003"
  rewrite(checkpoint)
  names = [x[0] for x in FORMER["progress"]["arrays"]]
  content = json.loads((checkpoint / "progress.json").read_text())
  found = former_names.renamed_checkpoint(content)["arrays"]
  former = former_names.renamed_checkpoint(FORMER["progress"])["arrays"]
  assert [x[0] for x in found if x[0] not in LATER] == [x[0] for x in former]
  assert set(names) <= {x[0] for x in content["arrays"]}

  class Notes(qj.Callback):
    def on_note(self, text):
      notes.append(text)

  notes: list[str] = []
  resumed = qj.run(settings(), again, display=QUIET, callbacks=[Notes()])
  assert notes[1:] == ["goes on after round 3, from a checkpoint"]
  assert resumed.clients == result.clients
  assert resumed.history == result.history
  other = dataclasses.replace(settings(), held_out_clients=2)
  with pytest.raises(ValueError, match="held_out_clients is 1 there and 2 her"):
    qj.run(other, again, display=QUIET)
