"""Each transformation is its operator, alone and inside those of optax."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.codebook_tree import (
  full_precision,
  get_centers,
  init_codebooks,
)
from quped_jax.quantization.proximal import centers_prox, weights_prox
from quped_jax.quantization.step_sizes import scale_by_step_size
from quped_jax.quantization.transforms import (
  keep_params_in_box,
  mask_codebooks,
  prox_centers,
  prox_quantize,
)
from tests.methods import every

# Each transformation by name, as a factory that takes a user's arguments; each
# works on the trees of `problem`.
TRANSFORMS = {
  "prox_quantize l1": functools.partial(prox_quantize, norm="l1"),
  "prox_quantize l2": functools.partial(prox_quantize, norm="l2"),
  "prox_centers exact": functools.partial(prox_centers, method="exact"),
  "prox_centers subgradient": functools.partial(
    prox_centers, method="subgradient"
  ),
  "prox_centers l2": functools.partial(prox_centers, norm="l2"),
  "keep_params_in_box": lambda **_: keep_params_in_box(0.5),
  "scale_by_step_size": lambda learning_rate=None, **_: scale_by_step_size(
    learning_rate
  ),
}

# One of each kind.
KINDS = ("prox_quantize l2", "prox_centers exact", "keep_params_in_box")
USES_VALUES = [n for n in TRANSFORMS if n != "keep_params_in_box"]
USES_CODEBOOKS = [n for n in TRANSFORMS if n != "scale_by_step_size"]


weights_prox_jit = jax.jit(weights_prox, static_argnums=3)


centers_prox_jit = jax.jit(centers_prox, static_argnums=(4, 5))


ON_WEIGHTS = ["prox_quantize l1", "prox_quantize l2", "keep_params_in_box"]


RATE, STRENGTH = 0.5, 0.1


all_transforms = pytest.mark.parametrize("name", TRANSFORMS)
of_each_kind = every.over(TRANSFORMS, fast=(), slow=KINDS)


def of_centers(name):
  return name.startswith("prox_centers")


def random_params(key):
  first, second, third = jax.random.split(jax.random.key(key), 3)
  return {
    "a": {
      "kernel": jax.random.normal(first, (6, 5)),
      "bias": jax.random.normal(second, (5,)),
    },
    "b": {"kernel": jax.random.normal(third, (5, 4))},
  }


def make_codebooks(params, bits=2, max_levels=8):
  return init_codebooks(
    params, lambda name: name.endswith("kernel"), bits, max_levels
  )


def problem(name, key=0, bits=2):
  """(updates, params, extra arguments) as the transformation takes them."""
  weights = random_params(key)
  codebooks = make_codebooks(weights, bits)
  params = get_centers(codebooks) if of_centers(name) else weights
  noise = jax.random.normal(jax.random.key(key + 100), (8, 5))
  updates = jax.tree.map(
    lambda p: 0.3 * noise.ravel()[: p.size].reshape(p.shape), params
  )
  extra = {"codebooks": codebooks}
  if of_centers(name):
    extra["weights"] = weights
  return updates, params, extra


def expected(name, updates, params, extra, rate, strength):
  """What the transformation promises, from the operators themselves."""
  if name == "scale_by_step_size":
    return jax.tree.map(lambda u: -rate * u, updates)
  threshold = rate * strength

  def one(codebook, u, p, w):
    if not isinstance(codebook, Codebook):
      return u
    norm = "l2" if name.endswith("l2") else "l1"
    if name == "keep_params_in_box":
      new = jnp.clip(p + u, -0.5, 0.5)
    elif of_centers(name):
      method = "subgradient" if name.endswith("subgradient") else "exact"
      new = centers_prox_jit(p + u, w, codebook, threshold, norm, method)
      new = jnp.where(jnp.arange(8) < codebook.levels, new, p)
      return new - p
    else:
      new = weights_prox_jit(p + u, codebook, threshold, norm)
    return jnp.where(codebook.levels > 0, new - p, u)

  weights = extra.get("weights", params)
  return jax.tree.map(
    one,
    extra["codebooks"],
    updates,
    params,
    weights,
    is_leaf=lambda x: isinstance(x, (Codebook, optax.MaskedNode)),
  )


def assert_close(actual, desired, atol=1e-6):
  chex.assert_trees_all_close(actual, desired, rtol=1e-5, atol=atol)


def assert_differs(actual, other):
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(other), strict=True)
  assert any(float(jnp.max(jnp.abs(a - b))) > 1e-3 for a, b in pairs)


@of_each_kind
def test_update_is_the_operator_under_jit_and_ignores_unknown_arguments(name):
  tx = TRANSFORMS[name](learning_rate=RATE, strength=STRENGTH)
  chex.clear_trace_counter()  # It counted this function for other transforms.

  # Neither the second nor the third call compiles again.
  @jax.jit
  @chex.assert_max_traces(n=1)
  def update(updates, state, params, extra):
    return tx.update(updates, state, params, unknown=jnp.ones(3), **extra)

  state = tx.init(problem(name)[1])
  for key in range(3):
    updates, params, extra = problem(name, key)
    new, state = update(updates, state, params, extra)
    want = expected(name, updates, params, extra, RATE, STRENGTH)
    assert_close(new, want)
    assert_differs(new, updates)


@of_each_kind
def test_vmap_gives_each_learner_its_own_values_and_precision(name):
  tx = TRANSFORMS[name]()
  bits = jnp.array([1, 2, 3, 32])
  rates = jnp.array([0.1, 0.5, 1.0, 2.0])
  strengths = jnp.array([0.3, 0.1, 0.0, 0.2])
  weights = jax.vmap(random_params)(jnp.arange(4))
  codebooks = jax.vmap(lambda p, b: make_codebooks(p, b))(weights, bits)
  params = get_centers(codebooks) if of_centers(name) else weights
  updates = jax.tree.map(lambda p: 0.2 * jnp.cos(40 * p), params)
  extra = {"codebooks": codebooks}
  if of_centers(name):
    extra["weights"] = weights
  states = jax.vmap(tx.init)(params)

  @jax.jit
  @jax.vmap
  def update(updates, state, params, extra, rate, strength):
    return tx.update(
      updates, state, params, learning_rate=rate, strength=strength, **extra
    )

  new, _ = update(updates, states, params, extra, rates, strengths)
  for i in range(4):
    updates_i, params_i, extra_i, new_i = jax.tree.map(
      lambda x, i=i: x[i], (updates, params, extra, new)
    )
    want = expected(name, updates_i, params_i, extra_i, rates[i], strengths[i])
    assert_close(new_i, want, atol=1e-5)
    if i == 3 and name in ON_WEIGHTS:
      jax.tree.map(np.testing.assert_array_equal, new_i, updates_i)


@all_transforms
def test_scan_counts_the_steps_of_a_schedule(name):
  """The value at step k is schedule(k), from 0."""

  def rate(count):
    return 0.2 * (count + 1)

  def strength(count):
    return 0.1 / (count + 1) ** 2

  tx = TRANSFORMS[name](learning_rate=rate, strength=strength)
  updates, params, extra = problem(name)

  def step(state, _):
    new, state = tx.update(updates, state, params, **extra)
    return state, new

  run = jax.jit(lambda state: jax.lax.scan(step, state, length=3))
  _, history = run(tx.init(params))
  for k in range(3):
    new = jax.tree.map(lambda x, k=k: x[k], history)
    want = expected(name, updates, params, extra, rate(k), strength(k))
    assert_close(new, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", USES_VALUES)
def test_values_given_to_update_beat_those_of_the_factory(name):
  tx = TRANSFORMS[name](learning_rate=RATE, strength=lambda _: STRENGTH)
  updates, params, extra = problem(name)
  state = tx.init(params)
  new, _ = tx.update(
    updates, state, params, learning_rate=0.3, strength=0.4, **extra
  )
  assert_close(new, expected(name, updates, params, extra, 0.3, 0.4))
  new, _ = tx.update(updates, state, params, learning_rate=0.0, **extra)
  assert_close(new, expected(name, updates, params, extra, 0.0, STRENGTH))


@pytest.mark.parametrize("name", ["prox_quantize l2", "scale_by_step_size"])
def test_schedules_given_to_update_go_by_its_own_count(name):
  tx = TRANSFORMS[name](learning_rate=RATE, strength=STRENGTH)
  updates, params, extra = problem(name)
  state = tx.init(params)
  for count in range(2):
    new, state = tx.update(
      updates,
      state,
      params,
      learning_rate=lambda count: 0.2 * (count + 1),
      strength=optax.linear_schedule(0.1, 0.3, 2),
      **extra,
    )
    now = (0.2 * (count + 1), 0.1 + 0.1 * count)
    assert_close(new, expected(name, updates, params, extra, *now))


@pytest.mark.parametrize("name", USES_CODEBOOKS)
def test_what_is_not_quantized_keeps_its_update_to_the_bit(name):
  tx = TRANSFORMS[name](learning_rate=RATE, strength=STRENGTH)
  params = random_params(0)
  if not of_centers(name):
    for codebooks in (make_codebooks(params, 32), full_precision(params)):
      updates = jax.tree.map(lambda p: 1e-9 * p, params)
      new, _ = tx.update(updates, tx.init(params), params, codebooks=codebooks)
      jax.tree.map(np.testing.assert_array_equal, new, updates)
  updates, params, extra = problem(name)
  new, _ = tx.update(updates, tx.init(params), params, **extra)
  if of_centers(name):
    assert new["a"]["bias"] == optax.MaskedNode()
  else:
    assert new["a"]["bias"] is updates["a"]["bias"]


@pytest.mark.parametrize("method", ["exact", "subgradient"])
@pytest.mark.parametrize("bits", [1, 32])
def test_padding_and_the_centers_of_full_precision_never_move(method, bits):
  tx = prox_centers(RATE, STRENGTH, method=method)
  updates, params, extra = problem("prox_centers", bits=bits)
  new, _ = tx.update(updates, tx.init(params), params, **extra)
  levels = 0 if bits == 32 else 2
  for leaf in jax.tree.leaves(new):
    assert not np.any(leaf[levels:])
    assert np.all(leaf[:levels])


@pytest.mark.parametrize("name", USES_CODEBOOKS)
def test_missing_params_and_codebooks_are_named(name):
  tx = TRANSFORMS[name](learning_rate=RATE, strength=STRENGTH)
  updates, params, extra = problem(name)
  state = tx.init(params)
  with pytest.raises(ValueError, match="params=None: update must be given"):
    tx.update(updates, state, **extra)
  for argument in extra:
    rest = {k: v for k, v in extra.items() if k != argument}
    with pytest.raises(
      ValueError, match=f"{argument}=None: update must be given"
    ):
      tx.update(updates, state, params, **rest)


@pytest.mark.parametrize("name", USES_VALUES)
def test_missing_values_are_named(name):
  updates, params, extra = problem(name)
  wanted = ["learning_rate", "strength"]
  if name == "scale_by_step_size":
    wanted = ["learning_rate"]
  for missing in wanted:
    given = {v: 0.1 for v in wanted if v != missing}
    tx = TRANSFORMS[name](**given)
    with pytest.raises(ValueError, match=f"{missing}=None: must be given to"):
      tx.update(updates, tx.init(params), params, **extra)
    # Given to update, it is not missing.
    tx.update(updates, tx.init(params), params, **{missing: 0.1}, **extra)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: prox_quantize(-0.1), r"learning_rate=-0\.1: must be at least 0"),
    (lambda: prox_quantize(0.1, -1), "strength=-1: must be at least 0"),
    (lambda: prox_quantize(norm="l0"), "norm='l0': must be one of l1, l2"),
    (lambda: prox_centers(-1.0), r"learning_rate=-1\.0: must be at least 0"),
    (lambda: prox_centers(1.0, -2.0), r"strength=-2\.0: must be at least 0"),
    (lambda: prox_centers(norm="l0"), "norm='l0': must be one of l1, l2"),
    (
      lambda: prox_centers(method="median"),
      "center_prox='median': must be one of exact, subgradient",
    ),
    (
      lambda: scale_by_step_size(-1.0),
      r"learning_rate=-1\.0: must be at least 0",
    ),
    (lambda: keep_params_in_box(0.0), r"limit=0\.0: must be positive"),
  ],
)
def test_errors_name_the_field_and_its_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_masked_with_masked_codebooks():
  params = random_params(0)
  codebooks = make_codebooks(params)
  updates = jax.tree.map(lambda p: 0.1 * jnp.sin(9 * p), params)
  for mask in (
    {"a": True, "b": False},
    {"a": {"kernel": True, "bias": False}, "b": {"kernel": False}},
  ):
    masked = mask_codebooks(codebooks, mask)
    assert masked["a"] == codebooks["a"]
    tx = optax.masked(prox_quantize(RATE, STRENGTH), mask)
    new, _ = jax.jit(tx.update)(
      updates, tx.init(params), params, codebooks=masked
    )
    extra = {"codebooks": codebooks}
    want = expected("prox_quantize l1", updates, params, extra, RATE, STRENGTH)
    assert_close(new["a"], want["a"])
    np.testing.assert_array_equal(new["b"]["kernel"], updates["b"]["kernel"])


def test_inject_hyperparams():
  tx = optax.inject_hyperparams(prox_quantize)(
    learning_rate=RATE, strength=lambda count: 0.1 * (count + 1), norm="l2"
  )
  updates, params, extra = problem("prox_quantize l2")
  update = jax.jit(tx.update)
  state = tx.init(params)
  for k in range(2):
    new, state = update(updates, state, params, **extra)
    want = expected(
      "prox_quantize l2", updates, params, extra, RATE, 0.1 * (k + 1)
    )
    assert_close(new, want)
  state = optax.tree_utils.tree_set(state, learning_rate=jnp.float32(2.0))
  new, _ = update(updates, state, params, **extra)
  want = expected("prox_quantize l2", updates, params, extra, 2.0, 0.3)
  assert_close(new, want)


def test_apply_if_finite():
  tx = optax.apply_if_finite(prox_quantize(RATE, STRENGTH), 3)
  updates, params, extra = problem("prox_quantize l1")
  update = jax.jit(tx.update)
  broken = jax.tree.map(lambda u: u.at[0].set(jnp.nan), updates)
  new, state = update(broken, tx.init(params), params, **extra)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(new))
  new, _ = update(updates, state, params, **extra)
  want = expected("prox_quantize l1", updates, params, extra, RATE, STRENGTH)
  assert_close(new, want)


def test_multi_steps_prox_acts_on_real_updates_only():
  inner = optax.chain(optax.sgd(1.0), prox_quantize(RATE, STRENGTH))
  steps = optax.MultiSteps(inner, every_k_schedule=3)
  grads, params, extra = problem("prox_quantize l1")
  update = jax.jit(steps.update)
  state = steps.init(params)
  for k in range(6):
    scaled = jax.tree.map(lambda g, k=k: (k % 3) * g, grads)
    new, state = update(scaled, state, params, **extra)
    if k % 3 < 2:
      assert not any(np.any(leaf) for leaf in jax.tree.leaves(new))
    else:
      # The mean of 0, 1 and 2 times the gradients.
      want = expected(
        "prox_quantize l1",
        jax.tree.map(lambda g: -g, grads),
        params,
        extra,
        RATE,
        STRENGTH,
      )
      assert_close(new, want)
  assert state.inner_opt_state[1].count == 2


@pytest.mark.slow
def test_updates_keep_their_type():
  params = {"kernel": jnp.linspace(-1, 1, 8, dtype=jnp.bfloat16)}
  codebooks = qj.init_codebooks(params, lambda _: True, 1)
  optimizer = optax.chain(
    scale_by_step_size(jnp.float32(0.1)),
    qj.prox_quantize(optax.constant_schedule(0.1), jnp.float32(0.1)),
  )
  updates, _ = optimizer.update(
    params, optimizer.init(params), params, codebooks=codebooks
  )
  assert jax.tree.leaves(updates)[0].dtype == jnp.bfloat16


def test_a_mask_that_is_a_function_is_an_error():
  codebooks = qj.init_codebooks({"kernel": jnp.ones(3)}, lambda _: True, 1)
  with pytest.raises(ValueError, match="mask=.*must be a tree of bools"):
    qj.mask_codebooks(codebooks, lambda params: params)


@pytest.mark.parametrize("name", ["prox_quantize", "prox_centers"])
def test_updates_of_other_shapes_are_not_broadcast(name):
  weights = {"kernel": jnp.linspace(-1.0, 1.0, 8)}
  codebooks = init_codebooks(weights, lambda _: True, 1)
  params = weights if name == "prox_quantize" else get_centers(codebooks)
  tx = getattr(qj, name)(0.1, 0.1)
  extra = {"codebooks": codebooks, "weights": weights}
  with pytest.raises(AssertionError, match="shape"):
    tx.update({"kernel": jnp.ones(1)}, tx.init(params), params, **extra)
