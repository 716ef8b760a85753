import ast
import dataclasses
import pathlib

from quped_jax.experiment.settings import Settings, named_options
from quped_jax.methods import registry


def test_type_checkers_know_every_built_in_method():
  source = pathlib.Path(named_options.__file__).read_text()
  declared = {
    node.target.id
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
  }
  assert declared == set(registry.BUILT_IN)


def test_options_of_a_method_are_given_by_its_name():
  """One way in files: they are those of `method_options`."""
  named = Settings(quped={"lambda_p": 0.3}, fedavg={"weighting": "uniform"})
  given = Settings(
    method_options={
      "quped": {"lambda_p": 0.3},
      "fedavg": {"weighting": "uniform"},
    }
  )
  assert named == given
  assert named.to_dict() == given.to_dict()
  changed = dataclasses.replace(named, quped={"temperature": 2.0})
  assert changed.method_options == {
    "quped": {"lambda_p": 0.3, "temperature": 2.0},
    "fedavg": {"weighting": "uniform"},
  }
