"""Fingerprints of data and networks: equal for equals, and for nothing else."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import models
from quped_jax.data.federation import Pool
from quped_jax.data.synthetic_federation import synthetic_federation
from quped_jax.experiment import fingerprints
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]


def test_federations_that_differ_have_other_fingerprints():
  first = fingerprints.of_data(tiny.make_federation())
  assert fingerprints.of_data(tiny.make_federation()) == first
  assert fingerprints.of_data(tiny.make_federation(seed=1)) != first
  fewer = tiny.make_federation(tiny.COUNTS[:3])
  assert fingerprints.of_data(fewer) != first
  # What is static counts too.
  named = dataclasses.replace(tiny.make_federation(), name="another")
  assert fingerprints.of_data(named) != first
  private = dataclasses.replace(tiny.make_federation(), public=None)
  assert fingerprints.of_data(private) != first


def test_arrays_of_other_shape_or_type_are_others():
  zeros = np.zeros((2, 3), np.float32)
  first = fingerprints.of_arrays([zeros])
  assert fingerprints.of_arrays([zeros.copy()]) == first
  assert fingerprints.of_arrays([np.asfortranarray(zeros)]) == first
  assert fingerprints.of_arrays([jnp.asarray(zeros)]) == first
  assert fingerprints.of_arrays((zeros,)) != first
  assert fingerprints.of_arrays([zeros.T]) != first
  assert fingerprints.of_arrays([zeros.view(np.int32)]) != first
  assert fingerprints.of_arrays([zeros, np.zeros(0)]) != first


@pytest.mark.parametrize("field", ["inputs", "labels"])
@pytest.mark.parametrize("row", [0, 1, 2999, 3019])
def test_every_sample_counts(field, row):
  many = tiny.make_federation((3000,))
  pool = many.source
  assert isinstance(pool, Pool)
  values = np.array(getattr(pool, field))
  values.reshape(len(values), -1)[row, -1] += 1
  changed = dataclasses.replace(
    many, source=dataclasses.replace(pool, **{field: values})
  )
  assert fingerprints.of_data(changed) != fingerprints.of_data(many)


def test_samples_that_are_drawn_are_told_apart_by_what_draws_them():
  def fingerprint(source):
    return fingerprints.of_data(synthetic_federation(source, 3))

  source = qj.data.SyntheticSource(0, shape=(4,))
  first = fingerprint(source)
  assert fingerprint(qj.data.SyntheticSource(0, shape=(4,))) == first
  for change in ({"seed": 1}, {"noise": 2.0}, {"shape": (5,)}):
    assert fingerprint(dataclasses.replace(source, **change)) != first

  @jax.tree_util.register_dataclass
  @dataclasses.dataclass(frozen=True)
  class Louder(qj.data.SyntheticSource):
    def draw(self, client_id, rows):
      inputs, labels = super().draw(client_id, rows)
      return gain * inputs, labels

  values = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
  gain = 2.0
  louder = fingerprint(Louder(**values))
  gain = 3.0
  assert fingerprint(Louder(**values)) != louder


class Net(nn.Module):
  """A perceptron, each of whose parts can be another."""

  activation: Any = nn.relu
  scale: Any = None
  kernel: Any = nn.initializers.lecun_normal()
  rate: float = 0.9
  width: int = 8

  @nn.compact
  def __call__(self, inputs, train: bool):
    x = nn.Dense(self.width, name="first", kernel_init=self.kernel)(inputs)
    if self.scale is not None:
      x = x * self.scale
    x = nn.BatchNorm(use_running_average=not train, momentum=self.rate)(x)
    x = nn.Dense(8, name="hidden_1")(self.activation(x))
    return nn.Dense(tiny.CLASSES, name="last")(x)


def network(quantized=None, **parts):
  made = qj.from_linen(Net(**parts), "net")
  if quantized is not None:
    made = made._replace(is_quantized=quantized)
  return fingerprints.of_network(made, tiny.make_federation((9, 9)))


@pytest.mark.slow
def test_networks_that_compute_the_same_are_the_same():
  assert network() == network()
  # Whatever was traced before, and whatever a name is.
  jax.clear_caches()
  assert network(activation=lambda x: nn.relu(x)) == network()


@pytest.mark.parametrize(
  "change",
  [
    {"activation": nn.gelu},
    {"activation": lambda x: nn.leaky_relu(x, 0.1)},
    {"width": 9},
    {"kernel": nn.initializers.he_normal()},
    {"rate": 0.8},
    {"scale": 2.0},
    {"scale": np.arange(8, dtype=np.float32)},
    {"quantized": lambda path: False},
  ],
)
def test_networks_that_differ_have_other_fingerprints(change):
  assert network(**change) != network()


@pytest.mark.slow
def test_how_much_a_network_drops_out_counts():
  def dropping(rate):
    made = qj.from_linen(tiny.Dropping(4, rate), "net")
    federation = tiny.make_federation((9, 9))
    settled = models.settle(made, 4, federation.example())
    return fingerprints.of_network(settled, federation)

  first = dropping(0.1)
  jax.clear_caches()
  assert dropping(0.1) == first
  assert len({first, dropping(0.2), dropping(0.0)}) == 3


def test_derivatives_of_networks_count():
  def activation(slope):
    @jax.custom_vjp
    def step(x):
      return (x > 0).astype(x.dtype)

    step.defvjp(lambda x: (step(x), x), lambda x, g: (slope * g,))
    return step

  first, second = (network(activation=activation(s)) for s in (1.0, 2.0))
  assert first != second
  assert network(activation=activation(1.0)) == first


def test_constants_of_networks_count_with_their_values():
  scales = [np.full(8, 2, np.float32), np.full(8, 3, np.float32)]
  first, second = (network(scale=scale) for scale in scales)
  assert first != second
  arrays = [network(scale=jnp.asarray(scale)) for scale in scales]
  assert arrays[0] != arrays[1]


def test_initial_weights_of_a_file_count():
  model = qj.from_linen(Net(), "net")
  federation = tiny.make_federation((9, 9))
  weights = [
    model.init(jax.random.key(seed), federation.example()) for seed in (0, 1)
  ]
  first, second = (
    fingerprints.of_network(
      model._replace(init=lambda key, inputs, own=own: own), federation
    )
    for own in weights
  )
  assert first != second


PROGRAM = """
import json, sys
from tests.experiment import test_fingerprints as own
from tests import tiny
print(json.dumps([own.network(), own.fingerprints.of_data(
  tiny.make_federation())]))
"""


@pytest.mark.slow
def test_another_process_finds_the_same():
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    cwd=ROOT,
    env={**os.environ, "PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  here = [network(), fingerprints.of_data(tiny.make_federation())]
  assert json.loads(done.stdout) == here
