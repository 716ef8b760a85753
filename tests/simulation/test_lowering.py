"""Programs lower for GPUs and TPUs, in the forms that are fast there.

Those of every method: `tests/methods/test_programs.py`.
"""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization import level_sums
from quped_jax.simulation import programs
from quped_jax.simulation.program import Program
from tests import lowering, tiny

CLIENTS = 4


@pytest.mark.slow
def test_gradients_of_levels_are_reduced_together_on_accelerators():
  book = qj.Codebook(jnp.linspace(-1.0, 1.0, 16), jnp.int32(16))

  def gradient(x):
    return jax.grad(
      lambda centers: jnp.sum(
        qj.soft_quantize(x, qj.Codebook(centers, book.levels))
      )
    )(book.centers)

  on_cpu, *elsewhere = (
    lowering.joint_reductions(
      lowering.text(Program(gradient), platform, jnp.ones(9999)), 2
    )
    for platform in ("cpu", *lowering.ACCELERATORS)
  )
  assert on_cpu == 0
  # Of 16 sums, two at a time, of which XLA makes one kernel.
  assert elsewhere == [8, 8]


def test_a_scatter_of_weights_into_few_places_is_found(monkeypatch):
  def histogram(index):
    return level_sums.count_by_bin(index, 100)

  index = jnp.zeros(1000, jnp.int32)
  lowering.check_sums(lowering.text(Program(histogram), "cuda", index))
  with pytest.raises(AssertionError, match="numbers=1000, places=100"):
    lowering.check_sums(lowering.text(Program(histogram), "cpu", index))
  monkeypatch.setattr(level_sums, "_COPIES", 1)
  with pytest.raises(AssertionError, match="numbers=1000, places=100"):
    lowering.check_sums(
      lowering.text(Program(lambda i: histogram(i)), "cuda", index)
    )


@functools.cache
def images():
  """Four clients of six images each."""
  rng = np.random.default_rng(0)
  data = qj.from_arrays(
    rng.standard_normal((28, 8, 8, 1), np.float32),
    rng.integers(0, 3, 28),
    num_classes=3,
  )
  rows = np.arange(28, dtype=np.int32).reshape(CLIENTS, 7)
  parts = qj.data.Partition(
    tuple(rows[:, :6]), tuple(rows[:, :0]), tuple(rows[:, 6:])
  )
  return qj.make_federation(data, parts)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_have_the_forms_of_the_table(dtype):
  federation = images()
  settings = tiny.make_settings("local", CLIENTS, bits=(32,), strategy="vmap")
  model = qj.create_model(
    "cnn1",
    3,
    conv_features=(2, 3),
    dense_features=(4,),
    dtype=jnp.dtype(dtype),
  )
  made = tiny.assemble(settings, federation, model)
  for platform in lowering.ACCELERATORS:
    text = lowering.rounds(made, platform)
    # Every client has kernels of its own: products, or as many groups.
    grouped = text.count(f"feature_group_count = {CLIENTS}")
    assert (grouped > 0) == (dtype == "bfloat16")
    if not grouped:
      assert "stablehlo.convolution" not in text


class Lowered(Program):
  """A program that is lowered for accelerators before it is compiled."""

  def _compile(self, args):
    for platform in lowering.ACCELERATORS:
      lowering.text(self, platform, *args)
    count.append(self)
    return super()._compile(args)


count: list[Program] = []


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"strategy": "vmap"},
    {"client_state": "host", "clients_per_round": 3},
    *(
      pytest.param(x, marks=pytest.mark.long)
      for x in (
        {"devices": 2},
        {"strategy": "dispatch", "chunk_size": 2},
        {"clients_per_round": 2},
      )
    ),
  ],
)
def test_all_programs_of_a_run_lower_for_accelerators(changes, monkeypatch):
  monkeypatch.setattr(programs, "Program", Lowered)
  count.clear()
  made = tiny.assemble(tiny.make_settings("quped", 5, **changes))
  simulation = made.simulation
  state = simulation.init(0)
  state, _ = simulation.run_rounds(state, 1)
  simulation.evaluate(state)
  assert len(list(simulation.primary_models(state))) == 5
  simulation.begin_finetune(state)
  # To begin, rounds, evaluation, models, and to begin the fine-tuning.
  assert len(set(count)) >= 5


# Of a round of QuPeD on CNN1 at 1, 2, 4 and 32 bits in one program, lowered for
# a CPU. Compiling takes as long as there are operations.
MOST = {
  "convolution": 6,
  "dot_general": 31,
  "scatter": 32,
  "while": 10,
  "all": 9_000,
}


@pytest.mark.slow
def test_a_round_of_mixed_precision_is_a_short_program():
  settings = tiny.make_settings(
    "quped", CLIENTS, bits=(1, 2, 4, 32), strategy="chunks"
  )
  model = qj.create_model("cnn1", 3)
  text = lowering.rounds(tiny.assemble(settings, images(), model), "cpu")
  kinds = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
  found = {kind: kinds[kind] for kind in MOST} | {"all": kinds.total()}
  assert all(found[kind] <= MOST[kind] for kind in MOST), found
