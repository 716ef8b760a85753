import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods.blocks import quantized_labels, soft_labels
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT
SHAPE = (publics.SIZE, tiny.CLASSES)
ENTRIES = publics.SIZE * tiny.CLASSES


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


@pytest.mark.slow
def test_at_full_precision_it_is_ds_fl_with_dual_distillation(
  federation, monkeypatch
):
  full = publics.simulate("cfd", federation, bits_up=32, bits_down=32)
  own, _ = publics.play(full, 3)

  def dual(models, training, options, federation):
    return soft_labels.soft_label_method(
      models, training, options, federation, dual=True
    )

  entry = qj.methods.get_method("ds_fl")
  monkeypatch.setitem(qj.methods.METHODS, "ds_fl", entry._replace(make=dual))
  other, _ = publics.play(publics.simulate("ds_fl", federation), 3)
  assert tiny.largest_difference(own.server, other.server) < 1e-6
  assert tiny.largest_difference(own.clients, other.clients) < 1e-6


@pytest.mark.slow
def test_what_goes_down_are_the_servers_own_labels(federation):
  model = publics.make_model()
  made = publics.make_method(
    "cfd", federation, model=model, bits_up=3, bits_down=8
  )
  context = publics.make_context(federation)
  server = made.init_server(jax.random.key(0), federation.example())
  sent = jax.nn.softmax(jax.random.normal(jax.random.key(1), SHAPE))
  message = quantized_labels.encode(sent, 3)
  total = made.receive(server, message, 2.0, context, COHORT)
  # The server sums the decoded labels.
  np.testing.assert_allclose(
    total.total, 2 * quantized_labels.decode(message, 3, SHAPE), rtol=1e-6
  )
  new = jax.jit(made.server_update)(server, {COHORT: total}, context)
  inputs = federation.public.data().batch(jnp.arange(publics.SIZE)).inputs
  logits, _ = model.apply(new.model.params, {}, inputs, False)
  labels = quantized_labels.decode(new.download.targets, 8, SHAPE)
  assert np.max(np.abs(labels - jax.nn.softmax(logits))) < 1 / 255
  assert tiny.largest_difference(new.model, server.model) > 1e-3


@pytest.mark.parametrize(("bits_up", "bits_down"), [(1, 1), (4, 1), (1, 32)])
def test_bytes_are_those_of_the_packed_bits(federation, bits_up, bits_down):
  simulation = publics.simulate(
    "cfd", federation, bits_up=bits_up, bits_down=bits_down
  )
  assert simulation.bytes_up == ENTRIES * bits_up / 8
  assert simulation.bytes_down == ENTRIES * bits_down / 8


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("cfd")


@pytest.mark.slow
def test_one_bit_takes_a_subset_and_partial_participation(federation):
  simulation = publics.simulate(
    "cfd", federation, public_samples=9, settings={"clients_per_round": 2}
  )
  assert simulation.bytes_up == np.ceil(9 * tiny.CLASSES / 8)
  state, losses = publics.play(simulation, 3)
  assert np.all(np.isfinite(losses))
  labels = quantized_labels.decode(
    state.server.download.targets, 1, (9, tiny.CLASSES)
  )
  np.testing.assert_array_equal(np.sum(labels, axis=1), np.ones(9))


def test_it_needs_a_public_set():
  with pytest.raises(ValueError, match="public_size=0: .*'cfd'"):
    publics.make_method("cfd", None)


@pytest.mark.parametrize("option", ["bits_up", "bits_down"])
def test_wrong_bits_are_errors(option):
  with pytest.raises(ValueError, match=f"cfd.{option}=9: must be from 1 to 8"):
    qj.Settings(method_options={"cfd": {option: 9}})
