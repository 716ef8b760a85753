"""From a comparison's config to its runs."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quped_jax.experiment.comparison import plan, report
from tests.experiment.comparison import small
from tests.hostile import cases, other_json, read_or_refused


def test_every_method_runs_at_every_precision_from_every_seed(tmp_path):
  config = small.make_config(bits=("32", "1,2"), seeds=(3, 5))
  planned = plan.make_runs(config, tmp_path)
  assert [run.folder.relative_to(tmp_path).as_posix() for run in planned] == [
    f"runs/{method}_{bits}_seed{seed}"
    for seed in (3, 5)
    for method in ("local", "fedavg")
    for bits in ("32", "1-2")
  ]
  for run in planned:
    assert run.settings.method == run.row.method
    assert run.settings.bits == run.row.bits
    assert run.settings.clients == 6
  assert [run.settings.seed for run in planned] == [3] * 4 + [5] * 4


def test_bits_and_methods_as_the_command_line_gives_them():
  assert plan.parse_bits("bits", "32; 1") == ((32,), (1,))
  assert plan.parse_bits("bits", "1,2;32") == ((1, 2), (32,))
  assert plan.parse_bits("bits", "1,2") == ((1, 2),)
  assert plan.parse_bits("bits", 4) == ((4,),)
  # Of a config that holds a tuple.
  assert plan.parse_bits("bits", ("1", "2;32")) == ((1, 2), (32,))
  assert plan.parse_bits("bits", ("32", "1,2")) == ((32,), (1, 2))
  assert plan.parse_bits("bits", (32, (1, 2))) == ((32,), (1, 2))
  for ambiguous in ((32, 1), ("32", "1"), [1, 2]):
    with pytest.raises(ValueError, match="must be text, '.*; .' for 2 rows, o"):
      plan.parse_bits("bits", ambiguous)
  assert plan.parse_methods(("quped,local",)) == ("quped", "local")


def test_overrides_change_one_method_and_one_precision(tmp_path):
  overrides = {
    "quped": {"learning_rate": 0.2, "quped": {"lambda_p": 0.3}},
    "quped_1": {"quped": {"temperature": 2.0}},
  }
  config = small.make_config(
    methods=("quped", "local"), seeds=(0,), overrides=overrides
  )
  settings = {
    run.row.name: run.settings for run in plan.make_runs(config, tmp_path)
  }
  assert settings["quped_1"].learning_rate == (0.2,)
  assert settings["local_1"].learning_rate == (0.05,)
  options = {name: s.to_dict()["quped"] for name, s in settings.items()}
  assert options["quped_1"]["lambda_p"] == 0.3
  assert options["quped_1"]["temperature"] == 2.0
  assert options["quped_32"]["temperature"] == 3.0
  # What `base` sets is kept.
  assert options["quped_1"]["global_loss"] == "distill+labels"


def test_a_variant_of_a_method_has_a_name_and_bits_of_its_own(tmp_path):
  variant = {
    "method": "fedavg",
    "bits": ("32",),
    "fedavg": {"server_optimizer": "momentum"},
  }
  config = small.make_config(
    methods=("fedavg", "fedavgm"), seeds=(0,), overrides={"fedavgm": variant}
  )
  planned = plan.make_runs(config, tmp_path)
  assert [run.row.name for run in planned] == [
    "fedavg_32",
    "fedavg_1",
    "fedavgm_32",
  ]
  assert planned[2].settings.method == "fedavg"
  assert planned[2].settings.options().server_optimizer == "momentum"
  assert planned[0].settings.options().server_optimizer == "sgd"


def test_further_overrides_take_precedence_and_keep_the_rest(tmp_path):
  own = {"quped": {"learning_rate": 0.2, "quped": {"lambda_p": 0.3}}}
  file = tmp_path / "best.json"
  more = {"quped": {"quped": {"lambda_p": 0.7}}, "local_1": {"momentum": 0.5}}
  file.write_text(json.dumps(more))
  config = small.make_config(overrides=own)
  result = plan.with_overrides(config, plan.read_overrides(str(file)))
  assert result["overrides"] == {
    "quped": {"learning_rate": 0.2, "quped": {"lambda_p": 0.7}},
    "local_1": {"momentum": 0.5},
  }
  assert config["overrides"] == own


@pytest.mark.parametrize(
  "text",
  ["{", "[1]", '{"quped": 3}', "[" * 100_000, '{"a": {}, "a": {}}', "{NaN:1}"],
)
def test_a_file_of_something_else_holds_no_overrides(tmp_path, text):
  file = tmp_path / "best.json"
  file.write_text(text)
  with pytest.raises(ValueError, match="overrides=.*best.json': must "):
    plan.read_overrides(str(file))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("fedavgg",)}, "methods='fedavgg': must be one of"),
    ({"methods": ()}, r"methods=\(\): must have at least one"),
    (
      {"methods": ("local", "local")},
      "methods='local': must be given only once",
    ),
    ({"seeds": ()}, r"seeds=\(\): must have at least one"),
    ({"seeds": (1, 1)}, "seeds=1: must be given only once"),
    ({"seeds": (0.5,)}, "seeds=0.5: must be a whole number"),
    ({"seeds": (-1,)}, "local_32: seed=-1: must be at least 0"),
    ({"bits": ()}, r"bits=\(\): must have at least one"),
    ({"bits": ("9",)}, "bits=9: must be from 1 to 8"),
    ({"bits": ("one",)}, "bits='one': must be a precision"),
    ({"bits": ""}, "bits='': must be a precision"),
    ({"bits": "32;"}, "bits='': must be a precision"),
    ({"bits": "1; 1"}, r"bits=\(1,\): must be given only once"),
    ({"bits": 1.5}, "bits=1.5: must be a precision"),
    ({"bits": True}, "bits=True: must be a precision"),
    (
      {"overrides": {"quped.v2": {"method": "quped"}}},
      "overrides.'quped.v2': must have no dot in its name",
    ),
    ({"overrides": {"nope": {}}}, "overrides.nope: must be a method"),
    (
      {"base": {"client_types": "6*mlp@1"}, "bits": "32; 1"},
      "bits='32; 1': must be one row's with base.client_types=",
    ),
    (
      {"overrides": {"local": {"learnin_rate": 1.0}}},
      "local_32: learnin_rate=1.0: no such field; did you mean 'lear",
    ),
    (
      {"overrides": {"fedavg": {"fedavg": {"mu": 1.0}}}},
      "fedavg_32: fedavg.mu=1.0: no such option",
    ),
    (
      {"overrides": {"local": {"clients": 3}}},
      "overrides.local.clients=3: must be the same for all methods",
    ),
    ({"base": {"rounds": 0}}, "rounds=0: must be at least 1"),
  ],
)
def test_a_wrong_config_is_an_error_that_names_the_field(
  tmp_path, changes, message
):
  start = small.Stub()
  with pytest.raises(ValueError, match=message):
    report.compare(
      small.make_config(**changes), tmp_path, start, small.quiet_console()
    )
  assert not start.folders


def test_a_config_of_something_else_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="config.methods: must be given"):
    plan.make_runs({"base": {}}, tmp_path)


BEST = {
  "local_32": {"learning_rate": [0.5, 0.25], "momentum": 0.5},
  "fedavg": {"bits": [2, "1,2"], "fedavg": {"server_learning_rate": 0.5}},
}


@pytest.mark.parametrize(
  ("own", "message"),
  [
    (
      {"learning_rate": [True]},
      "learning_rate=.*True.*: must be numbers",
    ),
    (
      {"learning_rate": ["0.1"]},
      "learning_rate=.*0.1.*: must be numbers",
    ),
    (
      {"learning_rate": {"a": 1}},
      "learning_rate=.*: must be numbers",
    ),
    ({"batch_size": 8.0}, "batch_size=8.0: must be a whole number"),
    ({"batch_size": 2**32 + 8}, "batch_size=4294967304: must be less than 2"),
    ({"momentum": None}, "momentum=None: must be a number"),
    ({"local": 3}, "local.*3"),
    ({"bits": [1.5]}, "overrides.local.bits=1.5: must be a precision"),
    ({"bits": [[1.5, 2]]}, r"overrides.local.bits=\[1.5, 2\]: must be a prec"),
    ({"bits": True}, "overrides.local.bits=True: must be a precision"),
    ({"bits": ["1_0"]}, "overrides.local.bits='1_0': must be a precision"),
    ({"bits": {"1": 2}}, "overrides.local.bits={'1': 2}: must be a precision"),
    ({"method": 3}, "method"),
    ({"method": ["local"]}, "method"),
  ],
)
def test_overrides_are_taken_for_no_other_values(own, message, tmp_path):
  """And what is wrong with them is said of their file."""
  file = tmp_path / "best.json"
  file.write_text(json.dumps({"local": own}))
  with pytest.raises(ValueError, match=f"^overrides='.*best.json'.*{message}"):
    plan.with_overrides_of(small.make_config(), str(file))


def test_a_config_that_is_wrong_itself_is_not_said_of_the_file(tmp_path):
  file = tmp_path / "best.json"
  file.write_text(json.dumps(BEST))
  wrong = small.make_config(base={"rounds": 0})
  with pytest.raises(ValueError, match="^local_32: rounds=0: must be at least"):
    plan.with_overrides_of(wrong, str(file))


@given(data=st.data())
@cases(20)
def test_hostile_overrides_are_right_or_refused(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / "overrides.json"
  path.write_bytes(data.draw(other_json(BEST)))
  config = small.make_config(
    bits=("32,2",), seeds=(0,), base={"learning_rate": (0.1, 0.2)}
  )
  found = read_or_refused(
    lambda: plan.with_overrides_of(config, str(path)),
    f"overrides={str(path)!r}: must be ",
  )
  if found is None:
    return
  said = json.loads(path.read_text())
  for run in plan.make_runs(found, tmp_path_factory.getbasetemp()):
    made = run.settings.to_dict()
    for name in (run.row.method, run.row.name):
      for field, value in said.get(name, {}).items():
        assert field == "bits" or same(made[field], value), field


def same(made, said):
  """Whether a setting is what a file says; a number may be whole."""
  if isinstance(said, dict):
    return all(same(made[name], value) for name, value in said.items())
  if isinstance(made, tuple):
    many = said if isinstance(said, list) else [said]
    return len(made) == len(many) and all(map(same, made, many))
  alike = type(made) is type(said) or (type(made), type(said)) == (float, int)
  return alike and made == said


def test_seeds_may_be_numbers_of_numpy():
  assert plan.parse_seeds("seeds", np.arange(2)) == (0, 1)
  assert {type(x) for x in plan.parse_seeds("seeds", np.arange(2))} == {int}
