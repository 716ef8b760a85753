import copy
import dataclasses
import fractions
import json
import pathlib
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.build_clients import build_population
from quped_jax.quantization.alternating import Rates
from quped_jax.simulation.program import Program
from tests import tiny

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
  def compile_(self, args):
    raise AssertionError("compiled before an error was found")

  monkeypatch.setattr(Program, "_compile", compile_)


@pytest.mark.parametrize(
  ("field", "value", "allowed"),
  [
    ("bits", (0,), "from 1 to 8, or 32"),
    ("bits", (9,), "from 1 to 8, or 32"),
    ("bits", (16,), "from 1 to 8, or 32"),
    ("bits", (-1,), "from 1 to 8, or 32"),
    ("bits", (), "at least one"),
    ("bits", ("",), "whole numbers"),
    ("bits", (1.5,), "whole numbers"),
    ("bits", (NAN,), "whole numbers"),
    ("bits", (True,), "whole numbers"),
    ("bits", "1", "whole numbers"),
    ("bits", b"1", "whole numbers"),
    ("bits", True, "whole numbers"),
    ("bits", [[1]], "whole numbers"),
    ("bits", {1: 2}, "whole numbers"),
    ("bits", 0, "from 1 to 8, or 32"),
    ("method", "fedsgd", "local, moon, per_fedavg, pfedme, quped, qupel"),
    ("optimizer", "lion", "sgd, momentum, adam, adamw"),
    ("centers_optimizer", "lion", "sgd"),
    ("shared_optimizer", "lion", "sgd"),
    ("strategy", "pmap", "auto, vmap, chunks"),
    ("chunk_size", 0, "at least 1"),
    ("devices", -1, "at least 0"),
    ("rounds_per_dispatch", -1, "at least 0"),
    ("compute_dtype", "float16", "float32, bfloat16"),
    ("granularity", "row", "tensor, channel"),
    ("estimator", "st", "soft, hard, ste, lsq, binaryrelax, parq, proxquant"),
    ("initial_levels", "mean", "range, uniform, lsbq, lsq, kmeans"),
    ("anneal_start", -0.1, "from 0 to 1"),
    ("anneal_start", 0.75, "less than anneal_end=0.75"),
    ("anneal_end", 1.5, "from 0 to 1"),
    ("anneal_rounds", -1, "at least 0"),
    ("parq_steepness", 0.0, "from 0.1 to 1000"),
    ("relax_start", 0.0, "positive"),
    ("relax_growth", 0.5, "at least 1"),
    ("norm", "l0", "l1"),
    ("center_prox", "no", "exact"),
    ("sharpness_unit", "no", "gap, absolute"),
    ("sharpness", 0.0, "positive"),
    ("sharpness", NAN, "positive"),
    ("clients", 0, "at least 1"),
    ("clients", 2.5, "a whole number"),
    ("clients", 2.0, "a whole number"),
    ("clients", NAN, "a whole number"),
    ("rounds", INF, "a whole number"),
    ("rounds", 0, "at least 1"),
    ("rounds", "3", "a whole number"),
    ("rounds", True, "a whole number"),
    ("steps", 0, "at least 1"),
    ("epochs", -1, "at least 0"),
    ("batch_size", 0, "at least 1"),
    ("eval_every", 0, "at least 1"),
    ("seed", -1, "at least 0"),
    ("seed", 2**31, "less than 2"),
    ("finetune_at", -1, "at least 0"),
    ("recalibration_batches", -1, "at least 0"),
    ("clients_per_round", 41, "at most 40"),
    ("clients_per_round", -1, "at least 0"),
    ("learning_rate", (-0.1,), "at least 0"),
    ("learning_rate", (NAN,), "at least 0"),
    ("learning_rate", (0.1, 0.2), "one entry, or one for each"),
    ("learning_rate", (), "one entry, or one for each"),
    ("learning_rate", -0.1, "at least 0"),
    ("learning_rate", 1j, "numbers"),
    ("centers_learning_rate", (-0.1,), "at least 0"),
    ("centers_learning_rate", (1.0, 1.0, 1.0), "one entry"),
    ("shared_learning_rate", -1.0, "at least 0"),
    ("finetune_centers_learning_rate", -1.0, "at least 0"),
    ("strength", -1e-9, "at least 0"),
    ("strength", INF, "finite"),
    ("strength", None, "a number"),
    ("strength_ramp", 1, "True or False"),
    ("weight_decay", -1.0, "at least 0"),
    ("weight_clip", -1.0, "at least 0"),
    ("outer_level", -1.0, "at least 0"),
    ("momentum", 1.5, "from 0 to 1"),
    ("learning_rate_decay", 0.0, "positive"),
    ("centers_clip", 0.0, "positive"),
    ("learning_rate_drops", (5, 3), "increasing"),
    ("learning_rate_drops", (0,), "rounds from 1"),
    ("centers_drops", (3, 3), "increasing"),
    ("hidden", (8, 0), "positive"),
    ("dataset", 5, "text"),
    ("augment", "rotate", "none, crop_flip"),
    ("partition", "sorted", "dirichlet, iid"),
    # More than programs count, or than float32 holds.
    ("rounds", 2**31, "less than 2**31"),
    ("hidden", (2**63, 8), "less than 2**31"),
    ("learning_rate_drops", (2**31,), "less than 2**31"),
    ("clients_per_round", -(2**31) - 1, "less than 2**31"),
    ("strength", 1e39, "at most 3.4e+38"),
    ("learning_rate", (10**40,), "at most 3.4e+38"),
    ("learning_rate", 1e-50, "0, or at least 1.2e-38"),
    ("sharpness", 1e-40, "at least 1.2e-38"),
    ("steps", 2**30, "must be fewer"),
    ("held_out_client_steps", 2**30, "must be fewer"),
    ("recalibration_batches", 2**30, "must be fewer"),
    ("client_types", "1*mlp(9999999999)@1", "clients*network@bits"),
    ("client_types", "9999999999*mlp@1", "clients*network@bits"),
    ("method_options", None, "a mapping"),
  ],
)
def test_a_wrong_value_names_the_field_the_value_and_what_is_allowed(
  field, value, allowed
):
  with pytest.raises(ValueError) as error:
    qj.Settings(**{field: value})
  message = str(error.value)
  assert message.startswith(f"{field}=")
  assert ("()" if value == () else str(value).strip("()[],")) in message
  assert allowed in message


@pytest.mark.parametrize(
  ("values", "fragments"),
  [
    ({1: 3}, ["1=3", "no such field"]),
    ({"colour": 3}, ["colour=3", "no such field", "batch_size", "quped"]),
    ({"clientz": 3}, ["clientz=3: no such field; did you mean 'clients'?"]),
    ({"lambda_p": 3}, ["lambda_p=3: no such field; did you mean 'quped.lamb"]),
    ({"lambda_p": 3, "method": "ditto"}, ["in Python is ditto={'lambda_p': ."]),
    ({"quped": {"mu": 1}}, ["quped.mu=1", "no such option", "lambda_p"]),
    ({"local": {"mu": 1}}, ["local.mu=1", "(none)"]),
    ({"quped": 3}, ["quped=3", "options"]),
    ({"quped": {"lambda_p": "x"}}, ["quped.lambda_p='x'", "a number"]),
    ({"quped": {"weighting": 1}}, ["quped.weighting=1", "text"]),
    ({"method_options": {"quped": {}}}, ["method_options=", "no such field"]),
    ({"finetune_at": 3, "rounds": 3}, ["finetune_at=3", "rounds=3"]),
    (
      {"hidden": [8], "model": "cnn1"},
      ["hidden=(8,): must have at least 2 widths with the network 'cnn1'"],
    ),
    (
      {"hidden": [8], "model": "resnet8"},
      ["hidden=(8,): must have no widths", "--config.hidden='()' gives none"],
    ),
    (
      {"shared_hidden": [8] * 3, "shared_model": "cnn2"},
      ["shared_hidden=(8, 8, 8): must have at least 4 widths"],
    ),
    (
      {"epochs_of": "each", "steps": 7},
      ["epochs_of='each': must be 'average' with epochs=0", "steps=7"],
    ),
    (
      {"shared_hidden": [8]},
      ["shared_hidden=(8,): must be () with shared_mod"],
    ),
    ({"quped": {"temperature": 1e300}}, ["quped.temperature=1e+300", "3.4e"]),
    (
      {"fedntd": {"temperature": 1e-300}},
      ["fedntd.temperature=1e-300", "1.2e"],
    ),
    ({"pfedme": {"inner_steps": 2**31}}, ["pfedme.inner_steps=2147483648"]),
    ({"fedgkd_vote": {"models": 101}}, ["fedgkd_vote.models=101", "100"]),
    ({"data_dir": "a\0b"}, ["data_dir='a", "must be text"]),
    ({"rounds": 10**5000}, ["rounds=", "digits", "less than 2**31"]),
    ({"quped": {1: 2}}, ["quped.1=2", "no such option"]),
    ({"fedavg": {"server_momentum": 2}}, ["fedavg.server_momentum=2"]),
    ({"fedavg": {"server_learning_rate": 0}}, ["server_learning_rate=0"]),
    ({"fedavg": {"server_optimizer": "x"}}, ["server_optimizer='x'", "adam"]),
  ],
)
def test_wrong_fields_and_options_are_errors(values, fragments):
  with pytest.raises(ValueError) as error:
    qj.Settings.from_dict(values)
  for fragment in fragments:
    assert fragment in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("values", "fragments"),
  [
    ({"dataset": "mnits"}, ["mnits", "digits"]),
    ({"model": "resnet9"}, ["model", "resnet9", "resnet8"]),
    ({"conv": "fft"}, ["conv", "fft", "native"]),
    ({"classes_per_client": 11}, ["classes_per_client=11", "10"]),
    ({"classes_per_client": 0}, ["classes_per_client=0"]),
    ({"clients": 1800}, ["clients=1800", "1797"]),
    ({"train_fraction": 1.0}, ["train_fraction=1.0", "(0, 1)"]),
    ({"validation_fraction": 1.0}, ["validation_fraction=1.0", "[0, 1)"]),
    ({"partition": "dirichlet", "alpha": 0.0}, ["alpha=0.0", "positive"]),
    ({"partition": "dirichlet", "alpha": NAN}, ["alpha=nan", "positive"]),
    ({"partition": "dirichlet", "min_size": 1000}, ["min_size=1000"]),
    ({"partition": "shards", "shards_per_client": 0}, ["shards_per_client=0"]),
    ({"partition": "natural"}, ["natural", "digits"]),
    ({"augment": "crop_flip", "dataset": "synthetic"}, ["augment='crop_flip'"]),
    (
      {"dataset": "synthetic", "validation_fraction": 1.5},
      ["validation_fraction=1.5", "[0, 1)"],
    ),
    (
      {"dataset": "synthetic", "classes_per_client": 11},
      ["classes_per_client=11", "10"],
    ),
    ({"method": "fedavg", "finetune_at": 3}, ["finetune_at=3", "fedavg"]),
    ({"model": "cnn1", "dataset": "synthetic"}, ["model: ", "(64,)", "images"]),
    ({"epochs": 2**30}, ["epochs=1073741824: must be fewer"]),
    ({"hidden": (2**30, 2**30)}, ["model='mlp(1073741824,1073741824)'"]),
    ({"hidden": (2**15, 2**15)}, ["clients=40", "memory", "GB"]),
    (
      {"participation_trace": "\ud800"},
      ["participation_trace=", "must be a CSV file"],
    ),
    (
      {"partition": "iid", "clients": 1000},
      ["client", "no test data", "at least one sample"],
    ),
  ],
)
def test_settings_that_do_not_fit_the_data_are_errors(values, fragments):
  settings = qj.Settings(**values)
  with pytest.raises(ValueError) as error:
    qj.run(settings, display=qj.Display(quiet=True))
  for fragment in fragments:
    assert fragment in str(error.value)


def test_a_federation_of_another_size_is_an_error():
  federation = tiny.make_federation((9, 9))
  with pytest.raises(ValueError, match="^clients=3: must be 2, as many as the"):
    qj.build(tiny.make_settings("local", 3), federation=federation)


def test_a_setting_that_does_not_exist_is_an_error_that_names_those_that_do():
  with pytest.raises(ValueError, match="^colour=3: no such field; .* clients,"):
    qj.Settings(colour=3)  # pyright: ignore[reportCallIssue]


def test_options_of_an_unknown_method_are_an_error():
  with pytest.raises(ValueError, match=r"method_options=\['quqed'\]: .*quped"):
    qj.Settings(method_options={"quqed": {}})
  with pytest.raises(ValueError, match=r"method_options=\[1, 'quqed'\]: "):
    qj.Settings(method_options={"quqed": {}, 1: {}})  # pyright: ignore


def test_whole_numbers_do_for_others_and_become_these():
  made = qj.Settings(
    strength=1, learning_rate=(1,), method_options={"quped": {"lambda_p": 1}}
  )
  assert type(made.strength) is type(made.learning_rate[0]) is float
  assert type(made.options().lambda_p) is float


@pytest.mark.parametrize(
  ("field", "written", "value"),
  [
    ("bits", 2, (2,)),
    ("bits", [1, 2], (1, 2)),
    ("bits", range(1, 3), (1, 2)),
    ("bits", np.array([1, 2]), (1, 2)),
    ("bits", jnp.array([1, 2]), (1, 2)),
    ("bits", [np.int8(1), np.uint64(2)], (1, 2)),
    ("hidden", 8, (8,)),
    ("hidden", [], ()),
    ("participation", 1, (1.0,)),
    ("budget_bytes", 5000, (5000,)),
    ("learning_rate_drops", 5, (5,)),
    ("learning_rate", 0.05, (0.05,)),
    ("learning_rate", np.float32(0.05), (0.05,)),
    ("learning_rate", np.array([0.05], np.float32), (0.05,)),
    ("learning_rate", jnp.float32(0.05), (0.05,)),
    ("learning_rate", fractions.Fraction(1, 20), (0.05,)),
    ("seed", np.int64(3), 3),
    ("seed", np.array(3), 3),
    ("seed", jnp.int32(3), 3),
    ("strength", np.float64(0.5), 0.5),
    ("strength", jnp.bfloat16(0.5), 0.5),
    ("strength", 1, 1.0),
    ("strength", -0.0, 0.0),
    ("strength_ramp", np.bool_(False), False),
    ("dataset", np.str_("digits"), "digits"),
    ("data_dir", pathlib.Path("data"), "data"),
    ("quped", {"lambda_p": np.float32(0.3)}, {"lambda_p": 0.3}),
  ],
)
def test_a_value_has_one_form_however_it_is_written(field, written, value):
  """So that neither identity nor config.json depends on how it was."""
  made = qj.Settings(**{field: written})
  plain = qj.Settings(**{field: value})
  assert made == plain and hash(made) == hash(plain)
  assert json.dumps(made.to_dict()) == json.dumps(plain.to_dict())
  assert json.dumps(made.identity()) == json.dumps(plain.identity())
  if field != "quped":
    kept = getattr(made, field)
    assert repr(kept) == repr(value) and type(kept) is type(value)


def test_settings_stay_the_same_when_a_mapping_that_they_were_given_changes():
  options = {"quped": {"lambda_p": 0.3}}
  made = qj.Settings(method_options=options)
  options["quped"]["lambda_p"] = 7.0
  assert made.options().lambda_p == 0.3
  assert made == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))
  with pytest.raises(TypeError):
    made.method_options["quped"]["lambda_p"] = 7.0  # pyright: ignore


def test_data_that_is_not_finite_or_out_of_range_is_an_error():
  inputs = np.ones((4, 2))
  with pytest.raises(ValueError, match="labels=5: must be between 0 and 2"):
    qj.from_arrays(inputs, np.array([0, 1, 2, 5]), num_classes=3)
  inputs[2, 1] = NAN
  with pytest.raises(ValueError, match="inputs=nan: must be finite"):
    qj.from_arrays(inputs, np.array([0, 1, 0, 1]))


def test_a_workdir_that_is_a_file_is_an_error(tmp_path):
  (tmp_path / "taken").write_text("")
  with pytest.raises(ValueError, match="workdir='.*taken': must be a folder"):
    qj.run(qj.Settings(), tmp_path / "taken")


def changed() -> dict[str, Any]:
  return {
    "method": "fedavg",
    "bits": (1, 4, 32),
    "learning_rate": (0.1, 0.2, 0.3),
    "hidden": (8, 8),
    "learning_rate_drops": (3, 5),
    "strength": 1,
    "method_options": {"quped": {"lambda_p": 0.3}},
  }


@pytest.mark.parametrize("values", [{}, changed()])
def test_settings_survive_a_dictionary_and_json(values):
  settings = qj.Settings(**values)
  flat = settings.to_dict()
  again = qj.Settings.from_dict(flat)
  assert again.to_dict() == flat
  through = qj.Settings.from_dict(json.loads(json.dumps(flat)))
  assert through.to_dict() == flat
  for field in dataclasses.fields(settings):
    if field.name != "method_options":
      assert getattr(through, field.name) == getattr(settings, field.name)
  assert through.options() == settings.options()


def test_a_dictionary_holds_every_default_and_every_methods_options():
  flat = qj.Settings(method_options={"quped": {"lambda_p": 0.3}}).to_dict()
  names = {field.name for field in dataclasses.fields(qj.Settings)}
  assert set(flat) == names - {"method_options"} | set(qj.methods.METHODS)
  assert flat["quped"]["lambda_p"] == 0.3
  assert flat["quped"]["temperature"] == 3.0
  assert flat["fedavg"]["weighting"] == "samples"
  assert flat["local"] == {}


def test_later_settings_are_part_of_an_identity_where_they_change_something():
  plain = qj.Settings().identity()
  assert "estimator" in plain
  assert "initial_levels" not in plain and "anneal_end" not in plain
  changed = qj.Settings(initial_levels="kmeans", anneal_end=0.5).identity()
  assert changed == {**plain, "initial_levels": "kmeans", "anneal_end": 0.5}


def test_later_options_are_part_of_an_identity_where_they_change_something():
  same = qj.Settings(quped={"blend": 0.0})
  assert "blend" not in same.identity()["quped"]
  assert same.to_dict()["quped"]["blend"] == 0.0
  other = qj.Settings(quped={"blend": 0.5})
  assert other.identity()["quped"]["blend"] == 0.5


def test_only_estimators_that_anneal_go_by_the_number_of_rounds():
  def rounds(**changes):
    return build_population(qj.Settings(rounds=7, **changes)).rounds

  assert rounds() is None and rounds(estimator="lsq") is None
  assert rounds(estimator="parq") == 7
  assert rounds(estimator="parq", anneal_rounds=9) == 9


def test_precisions_and_their_rates_go_to_clients_in_turn():
  settings = qj.Settings(
    clients=7, bits=(1, 4, 32), learning_rate=(0.1, 0.2, 0.3)
  )
  population = build_population(settings)
  assert population.spec.bits.tolist() == [1, 4, 32, 1, 4, 32, 1]
  rates: Rates = population.rates
  expected = np.array([0.1, 0.2, 0.3] * 2 + [0.1], np.float32)
  np.testing.assert_array_equal(rates.learning_rate, expected)
  np.testing.assert_array_equal(
    rates.centers_learning_rate, np.full(7, np.float32(1e-3))
  )
  assert settings.quantized and not qj.Settings(bits=(32,)).quantized
