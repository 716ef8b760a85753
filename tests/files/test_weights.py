import jax
import numpy as np
import pytest

import quped_jax as qj

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


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64])
def test_what_is_no_file_of_weights_is_refused(tmp_path, content):
  path = tmp_path / "model.safetensors"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match="warm_start=.*file of weights"):
    qj.load_weights(path, *MODEL.init(jax.random.key(0), INPUTS))


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
