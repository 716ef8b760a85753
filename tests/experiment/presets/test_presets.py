"""Presets: settings that are allowed, the same as those of the configs."""

import importlib
import pathlib

import pytest

import quped_jax as qj
from quped_jax.experiment import presets
from quped_jax.experiment.comparison import plan, tune
from quped_jax.experiment.presets import bases

ROOT = pathlib.Path(__file__).parents[3]
COMPARISONS = [x for x in presets.PRESETS if presets.compares(presets.get(x))]
RUNS = [x for x in presets.PRESETS if x not in COMPARISONS]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_allowed_and_is_that_of_its_config(name):
  settings = qj.Settings.from_dict(presets.get(name))
  assert settings == qj.Settings.from_dict(config_of(name).to_dict())


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_allowed_and_is_that_of_its_config(name, tmp_path):
  given, config = presets.get(name), config_of(name).to_dict()
  assert plan.make_runs(given, tmp_path) == plan.make_runs(config, tmp_path)
  if "tune" in given:
    assert len(tune.make_trials(given, tmp_path)) >= 8


def config_of(name):
  module, _, variant = name.partition(":")
  get_config = importlib.import_module(f"configs.{module}").get_config
  return get_config(variant) if variant else get_config()


def test_every_config_is_a_preset_and_every_preset_a_config():
  configs = {path.stem for path in (ROOT / "configs").glob("*.py")}
  assert configs == {name.partition(":")[0] for name in presets.PRESETS}


def test_configs_hold_no_settings_of_their_own():
  for path in (ROOT / "configs").glob("*.py"):
    code = path.read_text().rpartition('"""')[2]
    assert "common.get_" in code and len(code.splitlines()) < 9, path


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
