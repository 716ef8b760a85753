"""Configs hold settings that are allowed."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from quped_jax.experiment import presets
from quped_jax.experiment.comparison import plan
from quped_jax.experiment.training import make_schedule
from quped_jax.quantization.alternating import Rates
from tests.experiments.commands import ROOT

CONFIGS = sorted(
  path.stem
  for path in (ROOT / "configs").glob("*.py")
  # Configs of comparisons hold more than settings, see test_compare.py.
  if path.stem != "__init__" and not path.stem.startswith("compare")
)


def config_of(preset):
  name, _, variant = preset.partition(":")
  get_config = importlib.import_module(f"configs.{name}").get_config
  return get_config(variant) if variant else get_config()


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_a_config_is_its_preset(preset):
  config = config_of(preset).to_dict()
  assert config == common.get_preset(preset).to_dict()
  for name, value in presets.get(preset).items():
    if not isinstance(value, dict):
      assert config[name] == value


def test_every_config_is_a_preset_and_holds_no_settings_of_its_own():
  paths = list((ROOT / "configs").glob("*.py"))
  names = {name.partition(":")[0] for name in presets.PRESETS}
  assert {path.stem for path in paths} == names
  for path in paths:
    code = path.read_text().rpartition('"""')[2]
    assert "common.get_" in code and len(code.splitlines()) < 9, path


def test_runs_of_a_comparison_are_those_of_its_preset(tmp_path):
  """Whether settings at their defaults are filled in or not."""
  name = "compare_compression"
  of_config = plan.make_runs(config_of(name).to_dict(), tmp_path)
  of_preset = plan.make_runs(presets.get(name), tmp_path)
  assert [run.folder for run in of_config] == [run.folder for run in of_preset]
  for run, other in zip(of_config, of_preset, strict=True):
    assert run.settings.to_dict() == other.settings.to_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_holds_settings_that_are_allowed(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  assert common.get_settings(config).rounds >= 1


@pytest.mark.parametrize(
  ("name", "variant"),
  [
    ("centralized", "mnist"),
    ("centralized", "fashion_mnist"),
    ("centralized", "cifar10"),
    ("cifar10_centralized", "adam"),
  ],
)
def test_variants_of_configs_are_allowed(name, variant):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  assert common.get_settings(config).clients == 1


@pytest.mark.parametrize("variant", ["sgd", "adam"])
def test_the_cifar10_recipe_is_that_of_the_released_code(variant):
  config = importlib.import_module("configs.cifar10_centralized")
  settings = common.get_settings(config.get_config(variant))
  assert (settings.model, settings.augment) == ("resnet20", "crop_flip")
  assert (settings.rounds, settings.epochs) == (250, 1)
  assert (settings.batch_size, settings.finetune_at) == (128, 200)
  assert (settings.estimator, settings.norm) == ("hard", "l1")
  assert (settings.weight_clip, settings.centers_clip) == (1.0, 10.0)
  assert settings.weight_decay == 0
  sgd = variant == "sgd"
  assert settings.optimizer == ("momentum" if sgd else "adam")
  assert settings.momentum == 0.9
  assert settings.outer_level == (0.0 if sgd else 1.0)

  def rates(epoch):
    base = Rates(
      settings.learning_rate[0],
      settings.centers_learning_rate[0],
      settings.strength,
    )
    schedule = make_schedule(settings)
    got, _ = schedule.rates(base, jnp.ones(()), jnp.int32(epoch))
    return np.asarray(got[:3]) / [1, 1, epoch + 1]

  by_epoch = {
    (0, 79): (0.1, 1e-4, 1e-4),
    (80, 99): (0.1, 1e-5, 1e-4),
    (100, 139): (0.01, 1e-5, 1e-3),
    (140, 149): (0.01, 1e-6, 1e-3),
    (150, 249): (0.001, 1e-6, 1e-2),
  }
  for epochs, (weights, levels, strength) in by_epoch.items():
    wanted = (weights if sgd else 1e-2, levels, strength if sgd else 1e-4)
    for epoch in epochs:
      np.testing.assert_allclose(rates(epoch), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["centralized", "cifar10_centralized"])
def test_an_unknown_variant_of_a_config_is_an_error(name):
  module = importlib.import_module(f"configs.{name}")
  with pytest.raises(ValueError, match="'nope': must be one of"):
    module.get_config("nope")
