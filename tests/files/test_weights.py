import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.files import weights
from tests.hostile import (
  VALUES,
  cases,
  damaged,
  other_json,
  read_or_refused,
)

MODEL = qj.create_model("mlp", 3, features=(4, 5))
INPUTS = np.zeros((1, 6), np.float32)


def test_weights_come_back_to_the_bit(tmp_path):
  params, stats = MODEL.init(jax.random.key(0), INPUTS)
  stats = {"mean": np.arange(3.0, dtype=np.float32)}
  path = tmp_path / "model.safetensors"
  qj.save_weights(path, params, stats)
  loaded = qj.load_weights(
    path, *MODEL.init(jax.random.key(1), INPUTS)[:1], stats
  )
  jax.tree.map(np.testing.assert_array_equal, loaded, (params, stats))


def test_weights_of_another_model_are_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  qj.save_weights(path, *MODEL.init(jax.random.key(0), INPUTS))
  wider = qj.create_model("mlp", 3, features=(4, 7))
  deeper = qj.create_model("mlp", 3, features=(4, 5, 5))
  for other in (wider, deeper):
    with pytest.raises(ValueError, match="warm_start=.*must have shape"):
      qj.load_weights(path, *other.init(jax.random.key(0), INPUTS))


def save_with(path, name, change):
  """Saves weights of the model, of which one tensor is changed."""
  params, _ = MODEL.init(jax.random.key(0), INPUTS)
  params = jax.tree.map(np.asarray, params)
  params["hidden_1"][name] = change(params["hidden_1"][name])
  qj.save_weights(path, params, {})
  return params


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_numbers_of_another_size_are_read_as_the_models_own(tmp_path, dtype):
  path = tmp_path / "model.safetensors"
  saved = save_with(path, "kernel", lambda x: x.astype(dtype))
  assert saved["hidden_1"]["kernel"].dtype == dtype
  like = MODEL.init(jax.random.key(1), INPUTS)
  loaded, _ = qj.load_weights(path, *like)
  for x in jax.tree.leaves(loaded):
    assert x.dtype == np.float32
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)),
    loaded,
    saved,
  )


@pytest.mark.parametrize(
  ("dtype", "name"),
  [(np.int8, "I8"), (np.int32, "I32"), (bool, "BOOL"), (np.complex64, "C64")],
)
def test_what_is_no_floating_point_number_is_refused(tmp_path, dtype, name):
  path = tmp_path / "model.safetensors"
  save_with(path, "kernel", lambda x: x.astype(dtype))
  with pytest.raises(
    ValueError,
    match=f"warm_start='.*model.safetensors': 'params/hidden_1/kernel' must "
    f"be of type F16 or BF16 or F32 or F64; the file has {name}$",
  ):
    qj.load_weights(path, *MODEL.init(jax.random.key(0), INPUTS))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
  path = tmp_path / "model.safetensors"
  save_with(path, "bias", lambda x: np.append(x[1:], np.float64(value)))
  with pytest.raises(
    ValueError,
    match="'params/hidden_1/bias' must hold finite numbers of type float32; "
    f"the file has {value}$".replace("+", r"\+"),
  ):
    qj.load_weights(path, *MODEL.init(jax.random.key(0), INPUTS))


def test_types_and_numbers_are_checked_before_a_run(tmp_path):
  path = tmp_path / "model.safetensors"
  settings = qj.Settings(
    clients=4, hidden=(8, 8), bits=(2,), method="local", warm_start=str(path)
  )
  model = qj.create_model("mlp", 10, features=(8, 8))
  params, _ = model.init(jax.random.key(0), np.zeros((1, 64), np.float32))
  for change in (lambda x: x.astype(int), lambda x: x * np.nan):
    qj.save_weights(path, jax.tree.map(change, params), {})
    with pytest.raises(ValueError, match="warm_start=.*'params/first/bias'"):
      qj.build(settings)


def test_a_models_own_integers_must_be_there_as_they_are(tmp_path):
  path = tmp_path / "model.safetensors"
  qj.save_weights(path, {}, {"count": np.arange(3, dtype=np.int32)})
  like = {"count": np.zeros(3, np.int32)}
  _, stats = qj.load_weights(path, {}, like)
  np.testing.assert_array_equal(stats["count"], np.arange(3))
  assert stats["count"].dtype == np.int32
  qj.save_weights(path, {}, {"count": np.arange(3.0)})
  with pytest.raises(
    ValueError, match="'stats/count' must be of type I32; .* F64$"
  ):
    qj.load_weights(path, {}, like)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64])
def test_what_is_no_file_of_weights_is_refused(tmp_path, content):
  path = tmp_path / "model.safetensors"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match="warm_start=.*file of weights"):
    qj.load_weights(path, *MODEL.init(jax.random.key(0), INPUTS))


@pytest.mark.slow
def test_a_warm_start_begins_where_the_weights_left_off(tmp_path):
  path = tmp_path / "model.safetensors"
  cold = qj.Settings(
    clients=4, hidden=(8, 8), rounds=1, steps=1, bits=(2,), method="local"
  )
  simulation, federation, model = qj.build(cold)
  params, stats = model.init(jax.random.key(7), federation.example())
  qj.save_weights(path, params, stats)
  warm, _, _ = qj.build(qj.Settings(**{**vars(cold), "warm_start": str(path)}))
  learner = qj.client_state(warm.init(0), 2)
  jax.tree.map(np.testing.assert_array_equal, learner.params, params)
  kernel = params["hidden_1"]["kernel"]
  centers = learner.codebooks["hidden_1"]["kernel"].centers
  np.testing.assert_allclose(centers[0], kernel.min(), rtol=1e-6)
  fresh = qj.client_state(simulation.init(0), 2)
  assert not np.array_equal(fresh.params["hidden_1"]["kernel"], kernel)


def test_arrays_in_another_order_are_stored_as_they_read(tmp_path):
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
  path = tmp_path / "model.safetensors"
  qj.save_weights(path, {"kernel": kernel}, {})
  params, _ = qj.load_weights(path, {"kernel": kernel}, {})
  np.testing.assert_array_equal(params["kernel"], kernel)


@given(data=st.data())
@cases(50)
def test_a_hostile_file_of_weights_is_right_or_refused(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / "hostile.safetensors"
  like = jax.tree.map(np.asarray, MODEL.init(jax.random.key(0), INPUTS))
  qj.save_weights(path, *like)
  content = path.read_bytes()
  if data.draw(st.booleans()):
    path.write_bytes(data.draw(damaged(content)))
  else:
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = data.draw(other_json(header, TENSORS))
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
  found = read_or_refused(
    lambda: qj.load_weights(path, *like), f"warm_start={str(path)!r}: "
  )
  if found is None:
    return
  # The reader of safetensors says the same.
  same = safetensors.numpy.load_file(path)
  for name, x in weights.named(*found).items():
    assert x.dtype == np.float32 and np.isfinite(x).all()
    np.testing.assert_array_equal(x, same[name].astype(np.float32))
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, like)


TENSORS = st.one_of(
  VALUES,
  st.sampled_from(["F32", "F16", "I32", "U8", "F4"]),
  st.lists(st.integers(0, 400), max_size=3),
)
