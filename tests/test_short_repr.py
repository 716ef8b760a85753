"""What a notebook shows of a value is short, whatever arrays it holds."""

import jax
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from tests import tiny


@pytest.fixture(scope="module")
def result():
  return qj.run(
    qj.Settings(
      method="fedavg", clients=5, rounds=1, steps=1, bits=(32,), hidden=(4, 4)
    ),
    federation=tiny.make_federation(tiny.COUNTS),
    display=qj.Display(quiet=True),
  )


@pytest.mark.slow
def test_a_result_says_what_was_run_and_what_came_out(result):
  text = repr(result)
  assert text.startswith("Result(fedavg on ")
  assert "32 bits, 5 clients, round 1: " in text
  for name, spread in result.summary["accuracy"].items():
    assert f"{name} {100 * spread['mean']:.1f} %" in text
  fields = "summary, clients, history, figure_records, state, simulation"
  assert f"fields: {fields}" in text
  assert len(text) < 300


@pytest.mark.slow
def test_whatever_a_user_sees_is_a_few_lines(result, tmp_path):
  info = qj.ModelInfo("mlp", 4, (3,))
  weights = info.create().init(jax.random.key(0), np.zeros((1, 3)))
  qj.save_packed(tmp_path / "packed", *weights, info)
  data = qj.load_dataset("digits")
  federation = tiny.make_federation(tiny.COUNTS)
  made = assemble(qj.Settings(clients=5), federation=federation)
  for value in (
    result,
    result.simulation,
    result.state,
    result.state.server,
    qj.client_state(result.state, 0),
    federation,
    made,
    made.population,
    made.model,
    qj.build(qj.Settings(clients=5), federation=federation),
    data,
    qj.partition(data, "iid", 4),
    qj.load_packed(tmp_path / "packed"),
  ):
    text = repr(value)
    assert text.startswith(f"{type(value).__name__}(")
    assert len(text) < 600 and "\n" not in text, text


def test_arrays_are_shown_by_type_and_shape():
  data = qj.from_arrays(np.zeros((6, 3), np.float32), [0, 1] * 3)
  assert "inputs=float32[6, 3], labels=int32[6], num_classes=2" in repr(data)


def test_a_state_whose_buffers_are_gone_is_shown(result):
  state = result.simulation.init(0)
  result.simulation.run_rounds(state, 1)  # Takes them over.
  assert repr(state).startswith("SimulationState(server=")


def test_settings_show_what_differs_from_the_defaults():
  assert repr(qj.Settings()) == "Settings()"
  own = qj.Settings(clients=4, method_options={"quped": {"lambda_p": 0.25}})
  assert repr(own) == (
    "Settings(method_options={'quped': {'lambda_p': 0.25}}, clients=4)"
  )
  assert eval(repr(qj.Settings(bits=(1, 2))), {"Settings": qj.Settings}) == (
    qj.Settings(bits=(1, 2))
  )
