"""Help on settings: all groups, all settings, all options."""

import dataclasses
import re

import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.command_line import setting_help


def names_in(text):
  return re.findall(r"^  --([\w.]+)=", text, re.MULTILINE)


def test_every_setting_is_in_one_group():
  found = [
    name
    for group in setting_help.groups()
    for name in names_in(setting_help.of_group(group))
  ]
  fields = [field.name for field in dataclasses.fields(qj.Settings)]
  fields.remove("method_options")
  assert found == fields


def test_the_overview_has_a_line_for_each_group_and_no_setting():
  text = setting_help.overview("quped run")
  for name in setting_help.groups():
    assert re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE)
  assert "--help=GROUP" in text and not names_in(text)
  assert all(len(line) <= 80 for line in text.splitlines())


def test_a_setting_has_its_default_its_meaning_and_what_is_allowed():
  text = " ".join(setting_help.of_group("quantization").split())
  assert (
    "--norm=l1 of the regularizer that pulls weights to levels, 'l1' or 'l2'. "
    "allowed: one of l1, l2 --" in text
  )
  assert "--sharpness=10.0 of the soft quantizer. allowed: above 0" in text
  assert "--strength_ramp=True" in text and "allowed: True or False" in text
  text = " ".join(setting_help.of_group("client").split())
  assert (
    "--clients=40 number of clients that train. allowed: at least 1" in text
  )
  assert "--client_types='' if not" in text and "--budget_bytes='()'" in text


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_option_of_a_method_is_explained(name):
  text = setting_help.of_group(name)
  options = dataclasses.fields(methods.METHODS[name].options)
  assert names_in(text) == [f"{name}.{field.name}" for field in options]
  # After each name there is what it means.
  assert len(re.findall(r"=.*\n      \w", text)) == len(options)
  assert all(len(line) <= 80 for line in text.splitlines())


def test_an_unknown_group_is_an_error_with_the_near_one():
  with pytest.raises(
    ValueError, match="help='qauntization': must be one of da"
  ):
    setting_help.of_group("qauntization")
  with pytest.raises(ValueError, match="did you mean 'fedprox'"):
    setting_help.of_group("fedprx")
