"""Presets: settings that are allowed, under names."""

import pytest

import quped_jax as qj
from quped_jax.experiment import presets
from quped_jax.experiment.comparison import plan, tune
from quped_jax.experiment.presets import bases

COMPARISONS = [x for x in presets.PRESETS if presets.compares(presets.get(x))]
RUNS = [x for x in presets.PRESETS if x not in COMPARISONS]
# These have runs of all methods.
LARGE = ("compare_attacks", "compare_digits", "compare_images:")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_allowed(name):
  assert qj.Settings.from_dict(presets.get(name)).rounds >= 1


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(x, marks=[pytest.mark.slow] * x.startswith(LARGE))
    for x in COMPARISONS
  ],
)
def test_a_comparison_is_allowed(name, tmp_path):
  config = presets.get(name)
  assert len(plan.make_runs(config, tmp_path)) >= 24
  if "tune" in config:
    assert len(tune.make_trials(config, tmp_path)) >= 8


def test_what_is_got_can_be_changed():
  presets.get("digits")["quped"]["lambda_p"] = 0.1
  presets.get("compare_digits")["base"].clear()
  assert presets.get("digits")["quped"]["lambda_p"] == 0.5
  assert presets.get("compare_digits")["base"]["dataset"] == "digits"


def test_an_unknown_preset_is_an_error_with_the_near_one():
  with pytest.raises(
    ValueError, match="^preset='digit': must be one of digits"
  ):
    presets.get("digit")


def test_variants_follow_the_name():
  assert presets.variants("cifar10_centralized") == ("sgd", "adam")
  assert presets.variants("digits") == ()


def test_a_base_leaves_out_what_rows_differ_in():
  run = {"method": "quped", "bits": (1,), "seed": 3, "steps": 5, "rounds": 2}
  assert bases.base_of(run, rounds=7) == {"steps": 5, "rounds": 7}
