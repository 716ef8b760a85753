"""What `deterministic=True` promises of a round on a GPU, where none is.

An accelerator adds floats to one place in the order in which they arrive. So
the program that is lowered for one must not scatter several floats to a place.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization import level_sums, proximal
from quped_jax.simulation import program
from tests import tiny
from tests.methods import every

_SCATTER = re.compile(
  r'"stablehlo\.scatter"\(.*?dimension_numbers = #stablehlo\.scatter<(.*?)>,'
  r" unique_indices = (\w+)}>(.*?)}\) : \((.*?)\) ->",
  re.DOTALL,
)


def scatters(text):
  """(type of the numbers, whether they are added, how many may meet)."""
  for match in _SCATTER.finditer(text):
    numbers, unique, body, types = match.groups()
    operand, index, _ = re.findall(r"tensor<([\w x]+)>", types)[:3]
    sizes = [int(size) for size in index.split("x")[:-1]]
    # In the text, what is 0 is left out.
    vector = re.search(r"index_vector_dim = (\d+)", numbers)
    left_out = {int(vector[1]) if vector else 0}
    batched = re.search(
      r"scatter_indices_batching_dims = \[([\d, ]*)\]", numbers
    )
    if batched:
      left_out |= {int(x) for x in batched[1].split(",")}
    meet = math.prod(
      size for axis, size in enumerate(sizes) if axis not in left_out
    )
    adds = "stablehlo.add" in body
    yield operand.split("x")[-1], adds, 1 if unique == "true" else meet


def may_differ(text):
  """How many scatters add several floats to a place, in any order."""
  found = list(scatters(text))
  assert len(found) == text.count('"stablehlo.scatter"(')
  return sum(t[0] != "i" and adds and meet > 1 for t, adds, meet in found)


def lowered(fn, *args):
  traced = jax.jit(fn).trace(*args)
  return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_what_may_differ_is_seen():
  index = jnp.array([0, 0, 1])

  def add(x, y):
    return x.at[index].add(y)

  assert may_differ(lowered(add, jnp.zeros(2), jnp.ones(3))) == 1
  batched = lowered(jax.vmap(add), jnp.zeros((4, 2)), jnp.ones((4, 3)))
  assert may_differ(batched) == 1
  integers = jnp.zeros(2, jnp.int32), jnp.ones(3, jnp.int32)
  assert may_differ(lowered(add, *integers)) == 0
  # One to each row.
  pick = jax.grad(lambda x, i: jnp.take_along_axis(x, i[:, None], axis=1).sum())
  rows = lowered(pick, jnp.zeros((5, 4)), jnp.zeros(5, jnp.int32))
  assert "scatter" in rows
  assert may_differ(rows) == 0


BOOK = jax.ShapeDtypeStruct((32,), jnp.float32)
# As many weights as take bins.
WEIGHTS = jax.ShapeDtypeStruct((9000,), jnp.float32)


def soft(weights, centers, **options):
  book = qj.Codebook(centers, jnp.int32(32))
  return jnp.sum(qj.soft_quantize(weights, book, **options) ** 2)


def hard(weights, centers, **options):
  book = qj.Codebook(centers, jnp.int32(32))
  return jnp.sum(qj.hard_quantize(weights, book, **options) ** 2)


def prox(norm, method):
  def moved(weights, centers, **options):
    book = qj.Codebook(centers, jnp.int32(32))
    return proximal.centers_prox(
      centers, weights, book, 0.1, norm, method, **options
    )

  return moved


BLOCKS = {
  "soft": jax.grad(soft, argnums=(0, 1)),
  "hard": jax.grad(hard, argnums=(0, 1)),
  "l1": prox("l1", "exact"),
  "l2": prox("l2", "exact"),
  "subgradient": prox("l1", "subgradient"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_no_block_for_many_levels_adds_floats_in_any_order(name):
  def text(deterministic):
    def one(weights, centers):
      return BLOCKS[name](weights, centers, deterministic=deterministic)

    return lowered(one, WEIGHTS, BOOK)

  assert may_differ(text(False)) > 0
  assert may_differ(text(True)) == 0


@pytest.fixture
def as_on_a_gpu(monkeypatch):
  """Has a CPU sum by level in the forms of an accelerator."""
  form = level_sums.form

  def elsewhere(platform, places, weights, deterministic=False):
    del platform
    return form("accelerator", places, weights, deterministic)

  monkeypatch.setattr(level_sums, "form", elsewhere)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
  "name", ["hard", "l1", "l2", pytest.param("soft", marks=pytest.mark.slow)]
)
def test_blocks_give_the_same_in_any_order_of_the_weights(name):
  """To the bit with the setting, where the weights are summed by level."""
  rng = np.random.default_rng(0)
  weights = jnp.asarray(rng.normal(size=90_000), jnp.float32)
  centers = jnp.linspace(-2.0, 2.0, 32)
  order = rng.permutation(weights.size)

  @functools.partial(jax.jit, static_argnums=1)
  def levels(weights, deterministic):
    found = BLOCKS[name](weights, centers, deterministic=deterministic)
    return found[1] if isinstance(found, tuple) else found

  plain, again = levels(weights, False), levels(weights[order], False)
  first, second = levels(weights, True), levels(weights[order], True)
  np.testing.assert_array_equal(first, second)
  np.testing.assert_allclose(first, plain, rtol=1e-4, atol=1e-3)
  # Sums of 1 and -1 are exact in any case.
  if name != "l1":
    assert np.any(plain != again)


def round_of(settings):
  """A round, as it is lowered for a GPU."""
  made = tiny.assemble(settings)
  state = made.simulation.shapes(bool(settings.finetune_at))
  state = state._replace(key=jax.eval_shape(lambda: jax.random.key(0)))
  args = state, jnp.int32(1), made.federation, made.population
  return lowered(made.simulation.program.jitted, *args)


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    pytest.param({}, marks=pytest.mark.long),
    {"norm": "l2", "strategy": "vmap", "granularity": "channel"},
    pytest.param(
      {"estimator": "hard", "center_prox": "subgradient"},
      marks=pytest.mark.long,
    ),
    pytest.param({"finetune_at": 1}, marks=pytest.mark.long),
  ],
  ids=str,
)
def test_no_round_with_many_levels_adds_floats_in_any_order(changes):
  def text(deterministic):
    return round_of(
      tiny.make_settings(
        "quped",
        len(tiny.COUNTS),
        bits=(1, 5),
        steps=1,
        deterministic=deterministic,
        **changes,
      )
    )

  assert may_differ(text(False)) > 0
  assert may_differ(text(True)) == 0


@every.over(tiny.METHODS, fast=(), slow=("fedgen", "fedgkt", "quped"))
def test_no_round_of_any_method_adds_floats_in_any_order(name):
  settings = tiny.make_settings(
    name, len(tiny.COUNTS), steps=2, deterministic=True
  )
  assert may_differ(round_of(settings)) == 0


def test_the_setting_changes_nothing_on_a_cpu():
  assert program.options("cpu", True) == program.options("cpu", False)
  assert program.options("gpu", False) == {}
  assert program.options("tpu", True) == {}


def test_this_jaxlib_knows_the_option_for_gpus():
  lowered = jax.jit(lambda x: x + 1).lower(1.0)
  options = program.options("gpu", True)
  assert options == {"xla_gpu_deterministic_ops": True}
  assert lowered.compile(compiler_options=options)(1.0) == 2
  with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile opt"):
    lowered.compile(compiler_options={"xla_gpu_no_such_thing": True})


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("where", ["device", "host"])
def test_all_programs_of_a_simulation_are_compiled_so(
  deterministic, where, monkeypatch
):
  asked = []
  init = program.Program.__init__

  def remember(self, *args, **options):
    asked.append(options.get("deterministic", False))
    init(self, *args, **options)

  monkeypatch.setattr(program.Program, "__init__", remember)
  settings = tiny.make_settings(
    "fedavg",
    4,
    held_out_clients=1,
    client_state=where,
    deterministic=deterministic,
    classes_per_client=4,
  )
  qj.build(settings)
  assert len(asked) > 4
  assert set(asked) == {deterministic}


def test_a_gpu_is_asked_for_it(monkeypatch):
  seen = []

  class Lowered:
    def compile(self, compiler_options):
      seen.append(compiler_options)

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  for deterministic in (False, True):
    lowered: Any = Lowered()
    program.compile_lowered(lowered, deterministic=deterministic)
  assert seen == [None, {"xla_gpu_deterministic_ops": True}]


@pytest.mark.long
def test_a_run_on_a_cpu_is_the_same_to_rounding():
  def run(deterministic):
    return qj.run(
      tiny.make_settings(
        "quped", 4, bits=(1, 5), rounds=2, deterministic=deterministic
      )
    )

  one, other = run(True), run(False)
  for a, b in zip(
    jax.tree.leaves(one.simulation.export(one.state)),
    jax.tree.leaves(other.simulation.export(other.state)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
