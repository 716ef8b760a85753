from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api, registry
from tests import tiny


def test_a_registered_method_runs_by_its_name(monkeypatch):
  local = qj.methods.get_method("local")
  calls = tiny.Counter(local.make)
  # Put back after the test.
  monkeypatch.setitem(qj.methods.METHODS, "mine", local)
  qj.register_method("mine", calls, local.options)
  monkeypatch.setitem(tiny.CASES, "mine", tiny.CASES["local"])
  settings = tiny.make_settings("mine", 2, bits=(32,))
  qj.build(settings, federation=tiny.make_federation((9, 9)))
  # Again for programs that take numbers of the settings as data.
  assert calls.calls >= 1
  assert settings.to_dict()["mine"] == {}


def test_an_unknown_method_is_an_error_that_lists_the_known():
  with pytest.raises(
    ValueError, match="method='fedsgd'.*fedavg, .*local, .*quped"
  ):
    qj.methods.get_method("fedsgd")


def test_only_a_method_that_names_the_federation_is_given_it(monkeypatch):
  given = []

  def make(models, training, options, federation):
    given.append(federation)
    return qj.methods.get_method("local").build(models, training, options, None)

  local = qj.methods.get_method("local")
  monkeypatch.setitem(qj.methods.METHODS, "mine", local)
  qj.register_method("mine", make, local.options)
  federation = tiny.make_federation((9, 9))
  settings = qj.Settings(method="local", clients=2)
  for name, expected in (("mine", [federation]), ("local", [])):
    given.clear()
    entry = qj.methods.get_method(name)
    model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
    entry.build(
      api.Models(model, {tiny.COHORT: model}),
      make_training(settings),
      entry.options(),
      federation,
    )
    assert given == expected


def test_the_methods_that_are_given_the_federation():
  takers = {n for n, e in qj.methods.METHODS.items() if e.takes_federation}
  assert takers == {
    "cfd", "cronus", "ds_fl", "fedaux", "fedbe", "fedcad", "feddbe", "feddf",
    "feddyn", "fedftg", "fedgen", "fedgkt", "fedmd", "fedproto", "fedrod",
    "fedssd", "fedtgp", "fedzkt", "moon", "scaffold", "scaffold_ft",
  }  # fmt: skip


def test_every_built_in_method_has_a_version():
  for name in tiny.METHODS:
    assert isinstance(qj.methods.METHODS[name].version, int), name


def test_a_registered_method_has_the_version_it_declares_or_that_of_its_code(
  monkeypatch,
):
  local = qj.methods.get_method("local")
  monkeypatch.setitem(qj.methods.METHODS, "mine", local)

  def behaviour(factor, version=None):
    def make(models, training, options):
      assert factor
      return local.build(models, training, options, None)

    qj.register_method("mine", make, local.options, version)
    return qj.methods.get_method("mine").behaviour()

  third = behaviour(1.0, version=3)
  assert third == behaviour(2.0, version=3) and third.startswith(
    "version 3 of "
  )
  assert behaviour(1.0, version=np.int64(3)) == third
  assert behaviour(1.0) == behaviour(1.0) != behaviour(2.0)
  assert behaviour(1.0).startswith("hash ")
  wrong: Any = "3"
  with pytest.raises(ValueError, match="version='3': must be a whole number"):
    behaviour(1.0, version=wrong)


def test_a_method_in_place_of_a_built_in_one_is_another(monkeypatch):
  """Even if it declares the same version."""
  built_in = qj.methods.METHODS["fedavg"]
  monkeypatch.setitem(qj.methods.METHODS, "fedavg", built_in)

  def make(models, training, options):
    return built_in.build(models, training, options, None)

  qj.register_method("fedavg", make, built_in.options, built_in.version)
  mine = qj.methods.METHODS["fedavg"].behaviour()
  assert mine != built_in.behaviour()


def test_what_may_wrap_a_built_in_method_changes_with_its_version(monkeypatch):
  local = qj.methods.METHODS["local"]
  monkeypatch.setitem(qj.methods.METHODS, "mine", local)
  qj.register_method("mine", lambda *args: local.make(*args), local.options)
  mine = qj.methods.METHODS["mine"]
  before = mine.behaviour()
  raised = local._replace(version=1000)
  monkeypatch.setitem(registry.BUILT_IN, "local", raised)
  assert mine.behaviour() != before


def test_a_built_in_method_under_another_name_changes_with_its_version(
  monkeypatch,
):
  entry = qj.methods.get_method("fedavg")
  monkeypatch.setitem(qj.methods.METHODS, "alias", entry)
  qj.register_method("alias", entry.make, entry.options)
  alias = qj.methods.get_method("alias")
  before = alias.behaviour()
  assert before.startswith("hash ")
  newer = entry._replace(version=(entry.version or 0) + 1)
  monkeypatch.setitem(registry.BUILT_IN, "fedavg", newer)
  assert alias.behaviour() != before


@pytest.mark.parametrize("name", ["initial state", "data", "networks", ""])
def test_a_name_that_stands_for_something_else_is_an_error(name):
  local = qj.methods.get_method("local")
  with pytest.raises(ValueError, match=f"name='{name}': must be an identifier"):
    qj.register_method(name, local.make, local.options)


def test_options_that_are_no_class_are_an_error_and_nothing_is_registered():
  before = dict(registry.METHODS)
  options: Any = registry.METHODS["local"].options()
  with pytest.raises(ValueError, match="must be a frozen dataclass, the class"):
    qj.register_method("mine", registry.METHODS["local"].build, options)
  assert before == registry.METHODS


@pytest.mark.parametrize(
  ("given", "found"),
  [
    (("lambda_p",), "quped.lambda_p"),
    (("lambda_p", "ditto"), "ditto.lambda_p"),
    (("kappa", "quped"), "feddbe.kappa"),
    (("colour",), ""),
  ],
)
def test_an_option_is_found_by_its_name(given, found):
  assert registry.option_called(*given) == found
