"""Settings in a report: those that differ first, and all of them."""

import quped_jax as qj
from quped_jax.experiment.report import run_settings
from tests.experiment.report import made


def settings_of(folder, **settings):
  return made.read(made.run(folder, **settings)).settings


def test_what_differs_is_said_with_its_default(tmp_path):
  settings = settings_of(
    tmp_path / "run", quped={"lambda_p": 0.25}, rounds=40, clients=40
  )
  found = {x.name: x for x in run_settings.said(settings)}
  assert {x.name for x in found.values() if x.differs} == {
    "bits", "quped.lambda_p"
  }  # fmt: skip
  assert found["quped.lambda_p"].value == 0.25
  assert found["bits"].default == list(qj.Settings().bits)
  assert found["rounds"].meaning == "number of rounds."


def test_options_say_what_they_mean(tmp_path):
  found = run_settings.said(settings_of(tmp_path / "run", method="quped"))
  options = {x.name: x for x in found if x.name.startswith("quped.")}
  assert "weight of distillation" in options["quped.lambda_p"].meaning
  assert all(x.meaning for x in options.values())


def test_options_of_other_methods_are_left_out(tmp_path):
  settings = settings_of(tmp_path / "run", method="local")
  names = [x.name for x in run_settings.said(settings)]
  assert "method" in names and "dataset" in names
  assert not [x for x in names if "." in x and not x.startswith("local.")]
  assert not set(names) & {"quped", "fedavg"}


def test_values_are_written_as_the_command_line_takes_them():
  assert run_settings.written([1, 2, 32]) == "1,2,32"
  assert run_settings.written([]) == "()"
  assert run_settings.written(None) == "inf"
  assert run_settings.written(True) == "True"
  assert run_settings.written(1e-5) == "1e-05"


def test_runs_differ_in_what_is_not_the_same_in_all(tmp_path):
  first = settings_of(tmp_path / "a", seed=1, steps=4, quped={"lambda_p": 0.3})
  second = settings_of(tmp_path / "b", seed=2, steps=4, method="local")
  rows = run_settings.differing([first, second])
  # Of the options that only the first has, those that are not defaults.
  assert rows == [
    ["method", "quped", "local"],
    ["seed", "1", "2"],
    ["quped.lambda_p", "0.3", "\N{EN DASH}"],
  ]
  assert run_settings.differing([first, first]) == []


def test_a_setting_that_is_not_known_here_is_shown():
  (one,) = run_settings.said({"of_a_later_version": made.HOSTILE})
  assert one.differs and one.default is None
  assert "<script>" not in run_settings.section({"x": made.HOSTILE})


def test_all_settings_are_in_a_fold(tmp_path):
  settings = settings_of(tmp_path / "run", rounds=40, clients=40)
  section = run_settings.section(settings)
  first, _, fold = section.partition("<details>")
  assert "<code>bits</code>" in first and "dataset" not in first
  assert "<code>dataset</code>" in fold
  assert "folder <code>models</code>" in fold
