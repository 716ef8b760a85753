"""What a user may give as callbacks."""

import pytest

import quped_jax as qj
from quped_jax.experiment.callbacks import base


def test_a_callback_need_not_do_anything():
  callback = qj.Callback()
  assert base.check((callback,)) == [callback]


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (qj.Callback(), "callbacks=.*must be a list of callbacks, such as"),
    ("csv", "callbacks='csv': must be a list"),
    ([print], r"callbacks\[0\]=.*must be an instance of quped_jax.Callback$"),
    (
      [qj.Callback(), qj.callbacks.CSV],
      r"callbacks\[1\]=.*must be an instance .*, such as CSV\(\)",
    ),
  ],
)
def test_anything_else_is_an_error(given, message):
  with pytest.raises(ValueError, match=message):
    base.check(given)
  with pytest.raises(ValueError, match=message):
    # Before anything of the run is made.
    qj.run(qj.Settings(dataset="nowhere"), callbacks=given)


def test_a_misspelt_hook_is_an_error():
  class Stops(qj.Callback):
    def on_evalution(self, evaluation):
      raise qj.StopRun

  with pytest.raises(
    ValueError,
    match=r"^callbacks\[0\]=Stops: on_evalution is never called; .* among "
    "on_begin, .*; did you mean 'on_evaluation'",
  ):
    base.check([Stops()])


def test_of_several_runs_each_has_its_own():
  made = base.of_runs(lambda run: [qj.callbacks.CSV(f"{run}.csv")], "ab")
  assert len(made) == 2 and made[0] != made[1]
  assert base.of_runs(None, "ab") == [[], []]


@pytest.mark.parametrize("given", [[qj.Callback()], qj.Callback()])
def test_of_several_runs_they_are_made_by_a_function(given):
  with pytest.raises(ValueError, match="must be a function that takes a run"):
    base.of_runs(given, "ab")
