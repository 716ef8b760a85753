"""Many runs through few programs."""

from typing import Any

import pytest

import quped_jax as qj
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import many

BASE: dict[str, Any] = {
  "method": "local", "clients": 3, "classes_per_client": 4, "bits": (32,),
  "hidden": (8,), "rounds": 1, "steps": 2, "devices": 1,
}  # fmt: skip


def settings(**changes):
  return qj.Settings(**{**BASE, **changes})


def test_runs_share_what_they_have_in_common():
  sources = many.Sources()
  one, again, other, validated = (
    sources.plan(settings(**changes))
    for changes in (
      {}, {"strength": 0.5}, {"seed": 1}, {"validation_fraction": 0.5},
    )
  )  # fmt: skip
  assert one.parts.federation is again.parts.federation
  assert one.parts.federation is not other.parts.federation
  inputs = [x.parts.federation.source.inputs for x in (one, other, validated)]
  assert inputs[0] is inputs[1] is inputs[2]
  for run in (one, again, other, validated):
    assert run.identity == identity_lib.of_settings(run.settings)


def test_groups_are_runs_of_the_same_programs_in_order():
  sources = many.Sources()
  planned = [
    sources.plan(settings(**changes))
    for changes in (
      {}, {"steps": 3}, {"seed": 1}, {"method": "fedavg"}, {"steps": 3},
    )
  ]  # fmt: skip
  assert many.groups(planned) == [[0, 2], [1, 4], [3]]


@pytest.mark.slow
def test_what_is_given_is_that_of_all_runs():
  given = qj.build(settings()).federation
  model = qj.create_model("mlp", 10, features=(5,))
  sources = many.Sources(given, model)
  planned = [sources.plan(settings(seed=seed)) for seed in (0, 1)]
  assert all(run.parts.federation is given for run in planned)
  results = dict(
    many.run_groups(
      planned,
      [None, None],
      [qj.Display(quiet=True)] * 2,
      model_given=True,
    )
  )
  assert len(many.groups(planned)) == 1
  for i, run in enumerate(planned):
    alone = qj.run(
      run.settings,
      federation=given,
      model=model,
      display=qj.Display(quiet=True),
    )
    found = results[i]
    assert isinstance(found, qj.Result)
    assert found.history[-1]["loss"] == pytest.approx(
      alone.history[-1]["loss"], rel=1e-5
    )
