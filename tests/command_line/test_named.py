"""Settings by name: what text becomes, and what is said of mistakes."""

import dataclasses
import re

import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.command_line import named


def values(*words):
  return named.values_of(named.pairs(words), ("workdir",))


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    (["--bits=1,2,32"], {"bits": (1, 2, 32)}),
    (["--bits", "1,2"], {"bits": (1, 2)}),
    (["--bits=(1, 2,)"], {"bits": (1, 2)}),
    (["--hidden=[16]"], {"hidden": (16,)}),
    (["--hidden=()"], {"hidden": ()}),
    (["--hidden="], {"hidden": ()}),
    (["--learning_rate=0.1,1e-2"], {"learning_rate": (0.1, 0.01)}),
    (["--learning-rate=1"], {"learning_rate": (1.0,)}),
    (["--clients=100_000"], {"clients": 100_000}),
    (["--trim", "-1"], {"trim": -1.0}),
    (["--deterministic"], {"deterministic": True}),
    (["--deterministic=no", "--clients=2"],
     {"deterministic": False, "clients": 2}),
    (["--deterministic", "--clients=2"], {"deterministic": True, "clients": 2}),
    (["--deterministic", "False"], {"deterministic": False}),
    (["--data_dir=a=b"], {"data_dir": "a=b"}),
    (["--client_types=3*mlp(8,8)@1"], {"client_types": "3*mlp(8,8)@1"}),
    (["--steps=1", "--steps=2"], {"steps": 2}),
    (["--quped.lambda_p=0.3", "--quped.temperature=2", "--fedavg.weighting=x"],
     {"quped": {"lambda_p": 0.3, "temperature": 2.0},
      "fedavg": {"weighting": "x"}}),
  ],
)  # fmt: skip
def test_text_becomes_values(words, expected):
  assert values(*words) == expected


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--bitz=1"], "--bitz: no such setting or option; did you mean '--bits'?"),
    (["--wrkdir=1"], "--wrkdir: no such setting or option; did you mean '--wo"),
    (["--zzz=1"], "--zzz: no such setting or option; see --help"),
    (["--method_options=1"], "--method_options: no such setting or option"),
    (["--config.bits=1"], "--config.bits: is called --bits here"),
    (["--kinds=1"], "--kinds: is called --client_types now"),
    (["--lambda_p=1"], "--lambda_p: no such setting or option; did you mean '--"
     "quped.lambda_p'?"),
    (["--lambda-p=1", "--method=ditto"], "did you mean '--ditto.lambda_p'?"),
    (["--kappa=1"], "--kappa: no such setting or option; did you mean '--fed"),
    (["--quped=1"], "--quped: must be --quped.OPTION=VALUE, or --method=quped"),
    (["--qupd.mu=1"], "--qupd.mu: must begin with the name of a method; did y"),
    (["--quped.lambda=1"], "--quped.lambda: no such option; must be one of la"),
    (["--quped.lambda=1"], "blend; did you mean 'lambda_p'?"),
    (["--local.mu=1"], "--local.mu: no such option; must be one of (none)"),
    (["--clients"], "--clients: must have a value, as in --clients=VALUE"),
    (["--clients", "--steps=1"], "--clients: must have a value"),
    (["--clients=x"], "clients='x': must be a whole number"),
    (["--clients=1e2"], "clients='1e2': must be a whole number"),
    (["--clients="], "clients='': must be a whole number"),
    (["--trim=x"], "trim='x': must be a number"),
    (["--bits=1,,2"], "bits='1,,2': must be whole numbers, such as 1,2"),
    (["--deterministic=2"], "deterministic='2': must be True or False"),
    (["--bits=1,", "2"], "2: must be --NAME=VALUE, as all arguments"),
    (["bits=1"], "bits=1: must be --NAME=VALUE"),
    (["--"], "--: must be --NAME=VALUE"),
  ],
)  # fmt: skip
def test_a_mistake_is_named(words, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    values(*words)


def _written(value):
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_setting_can_be_given_by_name():
  for field in dataclasses.fields(qj.Settings):
    if field.name == "method_options":
      continue
    given = values(f"--{field.name}={_written(field.default)}")
    assert qj.Settings.from_dict(given) == qj.Settings(), field.name
    assert type(given[field.name]) is type(field.default), field.name


def test_every_option_of_a_method_can_be_given_by_name():
  for name, entry in methods.METHODS.items():
    made = entry.options()
    for field in dataclasses.fields(entry.options):
      value = getattr(made, field.name)
      given = values(f"--{name}.{field.name}={_written(value)}")
      assert given == {name: {field.name: value}}
      assert type(given[name][field.name]) is type(value)
