"""What programs are made of, and what they are given."""

import dataclasses
from typing import Any

import jax
import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.experiment.settings import swept
from quped_jax.quantization import codebook as codebook_lib

FIELDS = {f.name: f for f in dataclasses.fields(qj.Settings)}


def test_values_are_the_numbers_of_the_method_that_is_run():
  settings = qj.Settings(
    method="ditto", ditto={"lambda_p": 0.25}, learning_rate_decay=0.5
  )
  assert swept.values_of(settings) == {
    "learning_rate_decay": 0.5,
    "learning_rate_drop_factor": 0.1,
    "strength_drop_factor": 1.0,
    "centers_clip": 10.0,
    "centers_drop_factor": 0.1,
    "finetune_centers_learning_rate": 1e-5,
    "clip_norm": 1.0,
    "attack_scale": 10.0,
    "dp_noise": 0.0,
    "focal_gamma": 2.0,
    "ditto.lambda_p": 0.25,
  }


def test_zero_is_part_of_the_program_where_it_turns_something_off():
  off = qj.Settings(method="fedavg_ft")
  on = qj.Settings(method="fedavg_ft", fedavg_ft={"adapt_learning_rate": 0.1})
  name = "fedavg_ft.adapt_learning_rate"
  assert name not in swept.values_of(off)
  assert swept.program_of(off)[name] == 0
  assert swept.values_of(on)[name] == 0.1
  assert name not in swept.program_of(on)
  smooth = [qj.Settings(label_smoothing=x) for x in (0.1, 0.2)]
  assert swept.values_of(smooth[0])["label_smoothing"] == 0.1
  assert swept.program_of(smooth[0]) == swept.program_of(smooth[1])
  # Elsewhere it is a number like others.
  assert (
    swept.values_of(qj.Settings(quped={"lambda_p": 0}))["quped.lambda_p"] == 0
  )


def test_values_come_to_the_places_that_they_are_from():
  given = qj.Settings(quped={"lambda_p": 0.25}, centers_clip=3.0)

  def look(values):
    settings, options = swept.with_values(given, values)
    for x in (settings.centers_clip, options.lambda_p, options.temperature):
      assert codebook_lib.is_traced(x)
    assert settings.seed == 0 and options.weighting == "uniform"
    return settings.centers_clip, options.lambda_p

  found = jax.jit(look)(swept.values_of(given))
  assert [float(x) for x in found] == [3.0, 0.25]
  # What they were put into stays as it was.
  assert given.centers_clip == 3.0 and given.options().lambda_p == 0.25


@pytest.mark.parametrize(
  "values",
  [
    {"seed": 3},
    {"learning_rate": (0.1, 0.2)},
    {"strength": 0.5, "shared_learning_rate": 0.5},
    {"participation": (0.5,), "dropout": 0.1},
    {"quped": {"lambda_p": 0.1, "temperature": 1.0}},
    {"alpha": 0.1, "validation_fraction": 0.5},
    {"rounds": 3, "eval_every": 2, "checkpoint_every": 1},
    {"attack_scale": 2.0, "clip_norm": 2.0},
    {"focal_gamma": 1.0},
    # Of as many levels.
    {"bits": (2, 1)},
    {"bits": (1, 2, 2)},
    # Another method's.
    {"ditto": {"lambda_p": 0.1}},
  ],
)
def test_runs_that_differ_in_data_or_values_have_the_same_program(values):
  plain: dict[str, Any] = {"bits": (1, 2)}
  one, other = qj.Settings(**plain), qj.Settings(**{**plain, **values})
  assert swept.program_of(one) == swept.program_of(other)


@pytest.mark.parametrize(
  "values",
  [
    {"steps": 3},
    {"batch_size": 3},
    {"model": "cnn1"},
    {"method": "fedavg"},
    {"quped": {"temperature_on": "teacher"}},
    {"sharpness": 3.0},
    {"norm": "l2"},
    {"loss": "focal"},
    {"label_smoothing": 0.1},
    {"clients_per_round": 3},
    {"learning_rate_drops": (3,)},
    {"max_message_norm": 3.0},
    {"strategy": "vmap"},
    # Of more levels, of fewer, of full precision too.
    {"bits": (1, 3)},
    {"bits": (1,)},
    {"bits": (2, 32)},
  ],
)
def test_runs_that_differ_in_anything_else_have_not(values):
  plain: dict[str, Any] = {"bits": (1, 2)}
  one, other = qj.Settings(**plain), qj.Settings(**{**plain, **values})
  assert swept.program_of(one) != swept.program_of(other)


def test_with_privacy_programs_divide_by_expected_numbers_of_clients():
  private: dict[str, Any] = {"dp_clip": 1.0, "dp_noise": 0.5, "clients": 1000}
  one, other, noisier = (
    qj.Settings(participation=(share,), **{**private, **values})
    for share, values in ((0.5, {}), (0.25, {}), (0.5, {"dp_noise": 1.0}))
  )
  assert swept.program_of(one) != swept.program_of(other)
  assert swept.program_of(one) == swept.program_of(noisier)
  assert swept.values_of(one)["dp_clip"] == 1.0


def test_a_setting_is_data_or_traced_or_part_of_programs():
  for field in FIELDS.values():
    assert not (field.metadata["data"] and field.metadata["traced"])
    if field.metadata["traced"]:
      assert isinstance(field.default, float)
    else:
      assert not field.metadata["off_at_zero"]
  found = swept.program_of(qj.Settings())
  assert {"steps", "method", "norm", "devices"} <= set(found)
  assert not {"seed", "bits", "learning_rate"} & set(found)


# Shares from which sizes of arrays follow.
SHARES = ("cronus.trim", "fedaux.held_back")


def test_every_number_among_the_options_of_built_in_methods_is_traced():
  for name, entry in methods.METHODS.items():
    for field in dataclasses.fields(entry.options):
      traced = field.metadata.get("traced", False)
      is_share = f"{name}.{field.name}" in SHARES
      assert traced == (isinstance(field.default, float) and not is_share)
