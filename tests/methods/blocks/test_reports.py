"""What clients report is believed only if it can be true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import api
from quped_jax.methods.blocks import quantized_labels, reports
from quped_jax.methods.blocks.counted import Counted
from quped_jax.methods.blocks.label_outputs import Outputs, collect
from quped_jax.methods.fedgkt import FedgktMessage
from tests import tiny

SAMPLES = 23
DRAWN = 5 * tiny.BATCH  # In a round's steps.


def believed(name, message, samples=SAMPLES) -> bool:
  """Whether a method of the tiny federation believes all of a message."""
  parts = tiny.method_of(name).plausible(message, jnp.int32(samples))
  return all(bool(part) for part in jax.tree.leaves(parts))


@pytest.mark.parametrize(
  ("counts", "fine"),
  [
    ([3, 0, 20, 0], True),
    ([0, 0, 0, 0], True),
    ([3, 0, 21, 0], False),
    ([24, -1, 0, 0], False),
    ([np.inf, 0, 0, 0], False),
    ([np.nan, 0, 0, 0], False),
  ],
)
def test_counts_are_of_samples_that_there_are(counts, fine):
  counts = jnp.array(counts, jnp.float32)
  assert bool(reports.are_counts(counts, SAMPLES)) == fine
  # Which is what the server of FedGen believes; models may be anything.
  assert (
    believed("fedgen", Counted(api.GlobalModel(jnp.zeros(3), {}), counts))
    == fine
  )


def test_counts_of_very_many_samples_are_rounded():
  counts = jnp.full(10, 2**24 + 2, jnp.float32)
  assert reports.are_counts(counts, 10 * (2**24 + 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_whatever_a_softmax_gives_is_believed(dtype, classes):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(10 * rng.normal(size=(256, classes)), dtype)
  soft = jax.nn.softmax(logits)
  assert reports.are_probabilities(soft)
  labels = jnp.asarray(rng.integers(0, classes, 256))
  outputs = collect(logits, labels)
  assert reports.are_probabilities(outputs.sums, outputs.counts)
  assert reports.are_counts(outputs.counts, 256)


@pytest.mark.parametrize(
  "change",
  [
    lambda p: -10 * p,
    lambda p: p.at[3].multiply(1.05),
    lambda p: p.at[3].set(0),
    lambda p: p.at[2, 1].set(-0.1).at[2, 0].add(0.1),
    lambda p: p.at[0, 0].set(jnp.nan),
  ],
)
def test_soft_labels_are_probabilities(change):
  logits = np.random.default_rng(1).normal(size=(tiny.PUBLIC, tiny.CLASSES))
  soft = jax.nn.softmax(jnp.asarray(logits))
  assert believed("ds_fl", soft)
  assert not believed("ds_fl", change(soft))


def test_so_are_those_of_few_bits():
  """At one bit, exactly one of each sample's bits is set."""
  logits = np.random.default_rng(1).normal(size=(tiny.PUBLIC, tiny.CLASSES))
  sent = quantized_labels.encode(jax.nn.softmax(jnp.asarray(logits)), 1)
  assert believed("cfd", sent)
  assert not believed("cfd", ~sent)
  assert not believed("cfd", sent.at[0].set(0))


@pytest.mark.parametrize(
  ("change", "fine"),
  [
    (lambda x: x, True),
    (lambda x: jax.tree.map(jnp.zeros_like, x), True),
    (lambda x: jax.tree.map(lambda y: 2 * y, x), False),  # More than it drew.
    (lambda x: jax.tree.map(lambda y: -y, x), False),
    (lambda x: x._replace(counts=x.counts / 2), False),
    (lambda x: x._replace(sums=10 * x.sums), False),
    (lambda x: x._replace(sums=x.sums.at[0, 0].add(-9).at[0, 1].add(9)), False),
  ],
)
def test_summed_outputs_are_of_the_samples_that_were_drawn(change, fine):
  rng = np.random.default_rng(2)
  logits = jnp.asarray(rng.normal(size=(DRAWN, tiny.CLASSES)))
  outputs = collect(logits, jnp.asarray(rng.integers(0, tiny.CLASSES, DRAWN)))
  assert isinstance(outputs, Outputs)
  assert believed("fd", change(outputs)) == fine


@pytest.mark.parametrize(
  ("labels", "count", "fine"),
  [
    ([0, 3, 1, 99], 3, True),  # The rest is padding.
    ([0, 3, 1, 99], 4, False),
    ([0, -1, 1, 0], 3, False),
    ([0, 1, 1, 0], -1, False),
    ([0, 1, 1, 0], SAMPLES + 1, False),
  ],
)
def test_labels_are_of_classes_and_samples_that_there_are(labels, count, fine):
  labels = jnp.array(labels)
  message = FedgktMessage(
    features=jnp.full((4, 8), -1e3),
    logits=jnp.full((4, tiny.CLASSES), 1e3),
    labels=labels,
    count=jnp.int32(count),
  )
  assert believed("fedgkt", message) == fine


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "fedmd", "local"])
def test_models_and_scores_may_be_anything(name):
  assert believed(name, {"any": jnp.array([-1e30, 1e30])})
