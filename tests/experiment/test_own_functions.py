"""A user's own loss and metrics, by name or as functions."""

import csv
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.experiment import identity, many, own_functions
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.own_functions import OwnFunctions

SAMPLES, CLIENTS = 120, 3


def make_federation(kind="values", seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.normal(size=(SAMPLES, 4)).astype(np.float32)
  values = inputs @ rng.normal(size=(4, 3)) / 2
  labels: Any = {
    "values": values,
    "multi_label": values > 0,
    "classes": values.argmax(axis=1),
  }[kind]
  data = qj.from_arrays(
    inputs, labels, targets=kind, client=np.arange(SAMPLES) % CLIENTS
  )
  return qj.make_federation(data)


def make_settings(**changes):
  given = {
    "method": "fedavg",
    "clients": CLIENTS,
    "hidden": (8, 8),
    "bits": (2, 32),
    "rounds": 2,
    "steps": 4,
    "devices": 1,
  }
  return qj.Settings(**{**given, **changes})


def play(kind="values", workdir=None, *, settings=None, **options):
  return qj.run(
    settings or make_settings(),
    workdir,
    federation=make_federation(kind),
    display=qj.Display(quiet=True),
    **options,
  )


def within(outputs, values):
  """Which samples are met to within a half."""
  return jnp.all(jnp.abs(outputs - values) < 0.5, axis=-1)


@pytest.mark.slow
def test_a_loss_and_metrics_of_ones_own_are_trained_on_and_reported(tmp_path):
  result = play(
    workdir=tmp_path, loss=optax.huber_loss, metrics=("mae", within)
  )
  # The score follows from the targets, and the settings are as given.
  assert result.summary["score"] == "r2"
  assert json.loads((tmp_path / "config.json").read_text())["metrics"] == [
    "mae"
  ]
  table = result.summary["metrics"]
  assert set(table) == {"mae", "within"}
  for name, variants in table.items():
    assert set(variants) == {"global", "quantized"}
    for variant, spread in variants.items():
      own = [row[f"{name}/{variant}"] for row in result.clients]
      assert spread["min"] == min(own) and spread["max"] == max(own)
      np.testing.assert_allclose(spread["mean"], np.mean(own), rtol=1e-6)
      # Clients are of one size here.
      np.testing.assert_allclose(spread["pooled"], np.mean(own), rtol=1e-5)
      record = result.history[-1][f"{name}/test/{variant}"]
      np.testing.assert_allclose(record, spread["mean"], rtol=1e-6)
      record = result.history[-1][f"{name}/test/{variant}/pooled"]
      np.testing.assert_allclose(record, spread["pooled"], rtol=1e-6)
  assert 0 <= table["within"]["global"]["pooled"] <= 1
  with (tmp_path / "clients.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert float(rows[0]["mae/global"]) == result.clients[0]["mae/global"]
  made = json.loads((tmp_path / "identity.json").read_text())
  assert made["loss function"].startswith("hash ")
  # Of another loss, nothing is taken for this run's.
  with pytest.raises(ValueError, match="loss function is not the same"):
    play(
      workdir=tmp_path,
      loss=lambda y, t: optax.huber_loss(y, t, delta=0.5),
      metrics=("mae", within),
    )
  with pytest.raises(ValueError, match="loss function is given there and not"):
    play(
      workdir=tmp_path,
      settings=make_settings(loss="squared_error"),
      metrics=("mae", within),
    )


@pytest.mark.slow
def test_the_same_loss_in_other_words_is_the_same_run():
  """A mean or what it is taken of, a name or a function: to the bit."""
  by_name = play(settings=make_settings(loss="squared_error"))
  for loss in (
    "squared_error",
    lambda y, t: jnp.mean(jnp.square(y - t)),
    lambda y, t: jnp.square(y - t),
  ):
    other = play(loss=loss)
    assert other.summary["r2"] == by_name.summary["r2"]
    assert other.history[-1]["loss"] == by_name.history[-1]["loss"]
  assert "metrics" not in by_name.summary
  assert not [name for name in by_name.clients[0] if "/" in name]


@pytest.mark.parametrize(
  ("kind", "loss"),
  [
    ("classes", optax.softmax_cross_entropy_with_integer_labels),
    ("multi_label", optax.sigmoid_binary_cross_entropy),
    ("values", optax.l2_loss),
  ],
)
def test_losses_of_optax_fit(kind, loss):
  made = qj.build(
    make_settings(), federation=make_federation(kind), loss=loss, metrics="loss"
  )
  state = made.simulation.init(0)
  scores, measures = made.simulation.measure(state)
  assert set(scores["test"]) == set(measures["test"]["loss"])
  assert measures["test"]["loss"]["global"].pooled > 0


def test_identities_follow_from_what_functions_compute():
  scale = [2.0]

  def scaled(outputs, values):
    return scale[0] * jnp.abs(outputs - values)

  def same(y, t):
    """In other words."""
    difference = y - t
    return 2.0 * jnp.abs(difference)

  federation = make_federation()

  def parts(loss=None, **metrics):
    own = OwnFunctions(loss, tuple(metrics.items()))
    return identity.of_functions(own, federation)

  first = parts(scaled)
  assert first["loss function"] and parts(same) == first
  scale[0] = 3.0
  assert parts(scaled) != first
  assert parts() == {}
  both = parts(same, off=within)
  assert both["loss function"] == first["loss function"]
  other = parts(same, off=lambda y, t: jnp.sum(jnp.abs(y - t), axis=-1))
  assert other["metric off"] != both["metric off"]


@pytest.mark.parametrize(
  ("kind", "loss", "said"),
  [
    ("values", optax.l2_loss, "values"),
    ("multi_label", optax.sigmoid_binary_cross_entropy, "multi_label"),
    # As settings say by themselves.
    ("classes", optax.softmax_cross_entropy_with_integer_labels, None),
  ],
)
def test_an_identity_says_what_targets_a_function_is_for(kind, loss, said):
  found = identity.of_functions(OwnFunctions(loss), make_federation(kind))
  assert found.get("targets of the loss function") == said


def test_a_gradient_of_ones_own_is_part_of_the_identity():
  def make(factor):
    @jax.custom_jvp
    def loss(outputs, values):
      return jnp.mean(jnp.abs(outputs - values))

    @loss.defjvp
    def _(primals, tangents):
      return loss(*primals), factor * jnp.sum(tangents[0])

    return OwnFunctions(loss)

  one, same, other = (
    identity.of_functions(make(factor), make_federation())
    for factor in (1.0, 1.0, 2.0)
  )
  assert one == same != other


def test_the_identity_of_a_run_is_that_of_its_plan():
  federation, settings = make_federation(), make_settings()
  given, own = own_functions.read(settings, optax.l2_loss, {"off": within})
  found = identity.of(assemble(given, federation=federation, own=own), settings)
  assert many.Sources(federation, None, own).identity(settings) == found
  assert {"loss function", "metric off"} < set(found)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"loss": "huber"}, "loss='huber': must be one of cross_entropy, focal"),
    ({"loss": 3}, "loss=3: must be one of cross_entropy, .* or a function"),
    ({"loss": lambda y, t: y[0]}, r"loss: must return .* got float32 \[3\]"),
    ({"loss": lambda y, t: t > 0}, "loss: must return .* got bool"),
    ({"loss": lambda y, t: (y, t)}, "loss: must return one .* got tuple"),
    ({"metrics": "macro_f1"}, "metrics='macro_f1': must be one of loss, mae"),
    ({"metrics": ("f1",)}, "metrics='f1': must be one of accuracy"),
    ({"metrics": (3,)}, "metrics=3: must be one of .*, or a function"),
    ({"metrics": lambda y, t: y}, "metrics: .* got '<lambda>'. Give it one"),
    ({"metrics": {"mae": within}}, "metrics='mae': must be another name"),
    ({"metrics": {"a b": within}}, "metrics: must be functions with names"),
    (
      {"metrics": {"off": lambda y, t: abs(y - t)}},
      r"metrics\['off'\]: must return one number .* got float32 \[4, 3\]",
    ),
  ],
)
def test_what_does_not_fit_is_named(options, message):
  # So that a loss is allowed for the values.
  settings = (
    make_settings()
    if "loss" in options
    else make_settings(loss="squared_error")
  )
  with pytest.raises(ValueError, match=f"^{message}"):
    qj.build(settings, federation=make_federation(), **options)


def test_a_loss_is_given_once():
  for changes in ({"loss": "squared_error"}, {"label_smoothing": 0.1}):
    with pytest.raises(ValueError, match="^loss='.*': must be left out of the"):
      qj.build(
        make_settings(**changes),
        federation=make_federation(),
        loss=optax.l2_loss,
      )


def test_an_error_inside_says_what_the_function_was_called_with():
  def wrong(outputs, values):
    return outputs @ values

  with pytest.raises(TypeError) as caught:
    qj.build(make_settings(), federation=make_federation(), loss=wrong)
  note = "loss: was called with outputs float32 [4, 3] and targets float32 [4"
  assert any(x.startswith(note) for x in caught.value.__notes__)


def test_a_loss_of_distributions_is_told_of_the_one_of_classes():
  with pytest.raises(
    ValueError,
    match=r"^loss=softmax_cross_entropy: must take .* int32 \[4\], beside "
    r"outputs float32 \[4, 3\]; .* softmax_cross_entropy_with_integer_labels$",
  ):
    qj.build(
      make_settings(),
      federation=make_federation("classes"),
      loss=optax.softmax_cross_entropy,
    )


def test_methods_that_need_classes_refuse_a_loss_on_values():
  with pytest.raises(ValueError, match="^loss: must be one over classes with"):
    qj.build(
      make_settings(method="fedproto"),
      federation=make_federation(),
      loss=optax.l2_loss,
    )


def test_names_of_metrics_are_put_together():
  settings = make_settings(metrics="loss, mae")
  assert settings.metrics == ("loss", "mae")
  both, own = own_functions.read(settings, None, ["mae", "mse", within])
  assert both.metrics == ("loss", "mae", "mse")
  assert own == OwnFunctions(None, (("within", within),))
  with pytest.raises(ValueError, match="^metrics=.*: must be different ones"):
    qj.Settings(metrics=("loss", "loss"))


@pytest.mark.slow
def test_a_sweep_has_them_in_every_run():
  runs = qj.sweep(
    make_settings(rounds=1),
    {"seed": (0, 1)},
    federation=make_federation(),
    loss=optax.l2_loss,
    metrics=("loss", within),
    quiet=True,
  )
  for run in runs:
    assert run.summary is not None
    primary = run.summary["primary_variant"]
    assert run.score == run.summary["r2"][primary]["mean"]
    assert set(run.summary["metrics"]) == {"loss", "within"}
  assert "R2" in repr(runs[0])


@pytest.mark.long
def test_measures_are_the_same_however_clients_are_run():
  """In chunks, from host memory, over devices, and with other runs at once."""
  ways = [
    {},
    {"strategy": "chunks", "chunk_size": 2},
    {"client_state": "host"},
    {"devices": 2},
  ]
  found = [
    play(
      "classes",
      settings=make_settings(metrics=("loss", "macro_f1"), **how),
    ).summary["metrics"]
    for how in ways
  ]
  (swept,) = [
    run.summary
    for run in qj.sweep(
      make_settings(metrics=("loss", "macro_f1")),
      {"seed": (0, 1)},
      federation=make_federation("classes"),
      quiet=True,
      run_strategy="vmap",
    )
    if run.settings.seed == 0
  ]
  assert swept is not None
  for other in (*found[1:], swept["metrics"]):
    for name, variants in found[0].items():
      for variant, spread in variants.items():
        for key, value in spread.items():
          np.testing.assert_allclose(
            other[name][variant][key], value, rtol=1e-3, atol=1e-6
          )
