"""Runs on targets that are no classes: the loss falls, the score has a name."""

import csv
import json
from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import sources
from quped_jax.experiment import scores
from quped_jax.experiment.comparison import report, sensitivity, tune
from tests.experiment.comparison import small

SAMPLES, CLIENTS = 240, 3
LOSSES = {"values": "squared_error", "multi_label": "binary"}
NAMES = {"values": "r2", "multi_label": "label_accuracy"}


def make_data(kind):
  """Targets that follow from the inputs, linearly."""
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(SAMPLES, 4)).astype(np.float32)
  values = inputs @ rng.normal(size=(4, 2)) / 2
  labels = values if kind == "values" else values > 0
  return qj.from_arrays(
    inputs, labels, targets=kind, groups=np.arange(SAMPLES) % 8
  )


def make_settings(kind, **changes):
  given = {
    "method": "fedavg",
    "clients": CLIENTS,
    "partition": "iid",
    "hidden": (8, 8),
    "bits": (32,),
    "rounds": 4,
    "steps": 10,
    "learning_rate": (0.1,),
    "shared_learning_rate": 0.1,
    "loss": LOSSES[kind],
    "devices": 1,
  }
  return qj.Settings(**{**given, **changes})


def make_federation(kind, clients=CLIENTS, **options):
  data = make_data(kind)
  return qj.make_federation(data, qj.partition(data, "iid", clients, **options))


def play(kind, workdir=None, **changes):
  settings = make_settings(kind, **changes)
  federation = make_federation(
    kind,
    settings.clients + settings.held_out_clients,
    validation_fraction=settings.validation_fraction,
  )
  return qj.run(
    settings, workdir, federation=federation, display=qj.Display(lines=2)
  )


MIXED = {
  "bits": (1, 2, 32),
  "rounds": 12,
  "steps": 20,
  "quped": {"global_loss": "distill+labels"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "changes"),
  [
    ("values", {"steps": 20}),
    *(
      pytest.param(
        kind,
        {"method": method, **MIXED},
        marks=pytest.mark.slow if method == "quped" else pytest.mark.long,
      )
      for kind in LOSSES
      for method in ("fedavg", "quped")
    ),
  ],
)
def test_the_loss_falls_and_the_score_is_called_what_it_is(
  kind, changes, tmp_path, capsys
):
  result = play(kind, tmp_path, **changes)
  losses = [record["loss"] for record in result.history]
  assert losses[-1] < 0.7 * losses[0]
  written = json.loads((tmp_path / "summary.json").read_text())
  assert written["score"] == NAMES[kind]
  table = written[NAMES[kind]]
  reached = table[written["primary_variant"]]
  assert 0.4 < reached["worst"] <= reached["mean"] <= 1
  # Nowhere is it called accuracy.
  names = str([*written, *written["oracle_best"], *written["client_types"]])
  assert NAMES[kind] in written["oracle_best"]
  assert f"{NAMES[kind]}_best_round" in written
  assert all(NAMES[kind] in x for x in written["client_types"].values())
  assert "accuracy" not in names.replace("label_accuracy", "")
  shown = capsys.readouterr().out + repr(result)
  if kind == "values":
    assert "R2 0." in shown and "accuracy" not in shown and " %" not in shown
  else:
    assert " %" in shown
  with (tmp_path / "clients.csv").open() as file:
    rows = list(csv.DictReader(file))
  found = [float(row[written["primary_variant"]]) for row in rows]
  np.testing.assert_allclose(np.mean(found), reached["mean"], rtol=1e-6)


@pytest.mark.long
def test_held_out_and_streamed_clients_have_the_score_too():
  """And those that are divided over devices, with their targets."""
  ways = [
    {},
    {"client_state": "host", "strategy": "chunks"},
    {"devices": 2},
  ]
  found = [
    play(
      "values",
      method="ditto",
      held_out_clients=2,
      validation_fraction=0.2,
      bits=(2,),
      **how,
    ).summary
    for how in ways
  ]
  for summary in found:
    assert summary["held_out_clients"]["personalized"]["mean"] > 0.3
    assert summary["r2_best_round"]["quantized"]["mean"] > 0.3
  first, *others = (x["r2"]["quantized"]["mean"] for x in found)
  np.testing.assert_allclose(others, first, rtol=1e-4)


def test_a_loss_for_other_targets_is_refused_by_name():
  for kind, loss in (
    ("values", "cross_entropy"),
    ("values", "binary"),
    ("multi_label", "focal"),
  ):
    with pytest.raises(
      ValueError,
      match=f"^loss='{loss}': must be {LOSSES[kind]} for 'arrays', whose",
    ):
      qj.build(make_settings(kind, loss=loss), federation=make_federation(kind))
  with pytest.raises(
    ValueError, match="^loss='binary': must be cross_entropy or focal for 'dig"
  ):
    qj.build(qj.Settings(loss="binary"))


def test_settings_of_losses_are_checked():
  cases: tuple[tuple[dict[str, Any], str], ...] = (
    ({"loss": "hinge"}, "loss='hinge': must be one of cross_entropy, focal"),
    ({"label_smoothing": 1.5}, "label_smoothing=1.5: must be from 0 to 1"),
    ({"focal_gamma": -1.0}, "focal_gamma=-1.0: must be at least 0"),
    (
      {"loss": "focal", "label_smoothing": 0.1},
      "label_smoothing=0.1: must be 0 with loss='focal'",
    ),
  )
  for changes, message in cases:
    with pytest.raises(ValueError, match=f"^{message}"):
      qj.Settings(**changes)


@pytest.fixture
def dataset():
  before = dict(sources._LOADERS)
  qj.data.register_dataset("of_values", lambda folder: make_data("values"))
  yield "of_values"
  sources._LOADERS.clear()
  sources._LOADERS.update(before)


def test_a_partition_by_class_is_refused_by_name(dataset):
  with pytest.raises(
    ValueError, match="^partition='pathological': must be one of iid, quantity"
  ):
    qj.build(qj.Settings(dataset=dataset, loss="squared_error"))


def test_a_public_set_has_targets_of_the_same_kind(dataset):
  qj.data.register_dataset("several", lambda folder: make_data("multi_label"))
  with pytest.raises(
    ValueError, match="^public_dataset='arrays': must have targets that are 'v"
  ):
    qj.build(
      make_settings(
        "values", dataset=dataset, public_dataset="several", public_size=8
      )
    )


@pytest.mark.slow
def test_comparisons_and_sweeps_call_the_score_what_it_is(dataset, tmp_path):
  base = {
    "dataset": dataset,
    "partition": "iid",
    "loss": "squared_error",
    "clients": 3,
    "held_out_clients": 1,
    "public_size": 0,
  }
  config = small.make_config(base=base)
  config |= {"seeds": (0, 1), "bits": (32,)}
  report.compare(config, tmp_path, console=small.quiet_console())
  table = (tmp_path / "table.md").read_text()
  assert table.startswith("| method | bits | R2 | minus local 32 |")
  assert "- R2: coefficient of determination" in table
  assert "accuracy" not in table
  with (tmp_path / "table.csv").open() as file:
    assert all(float(row["r2"]) <= 1 for row in csv.DictReader(file))
  assert {path.name for path in tmp_path.glob("*.png")} == {
    "r2_over_rounds.png", "r2_over_bytes.png", "r2_of_clients.png",
  }  # fmt: skip
  config["methods"] = ("local",)
  (points,) = [sensitivity.sensitivity(config, "local", tmp_path)]
  assert all(len(point["r2"]) == 2 for point in points)
  assert set(tune.tune(config, tmp_path, say=lambda line: None)) == {"local_32"}
  runs = qj.sweep(
    make_settings("values", dataset=dataset, rounds=1, steps=2),
    {"seed": (0, 1)},
    quiet=True,
    say=lambda line: None,
  )
  for run in runs:
    assert run.summary is not None
    assert run.score == run.summary["r2"]["global"]["mean"]
  assert "R2 " in repr(runs[0])
  with pytest.raises(AttributeError, match="^accuracy: .* there is R2 instead"):
    _ = runs[0].accuracy


def test_a_summary_says_its_score_unless_it_is_accuracy():
  for score in scores.SCORES.values():
    said = scores.says(score)
    assert scores.of_summary(said) == score
    assert bool(said) == (score != scores.ACCURACY)
  with pytest.raises(ValueError, match="^score='loss': must be one of accura"):
    scores.of_summary({"score": "loss"})


def test_how_scores_are_written():
  assert scores.ACCURACY.text(0.877) == "87.7 %"
  assert scores.ACCURACY.in_words(0.877) == "accuracy 87.7 %"
  assert scores.ACCURACY.number(0.0123, "+") == "+1.2"
  assert scores.R2.text(-0.25) == scores.R2.in_words(-0.25) == "R2 -0.250"
  assert scores.R2.axis("mean") == "R2, mean"
  assert scores.LABEL_ACCURACY.axis("mean") == "label accuracy, mean, %"
