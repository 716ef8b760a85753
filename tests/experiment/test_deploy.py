"""The models that a run leaves."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import deploy
from quped_jax.experiment.assemble import assemble
from quped_jax.files import numpy_networks, numpy_reader
from quped_jax.quantization import alternating
from tests import tiny
from tests.files.packed_files import assert_close

QUIET = qj.Display(quiet=True)
CLIENTS = len(tiny.COUNTS)
CLIENT_TYPES = "2*mlp(8,8)@1, 1*mlp(8,8)@32, 2*mlp(12,8)@32"


def apart(state):
  """The state in which every client has other weights, as after a round."""

  def shift(path, x):
    if "params" not in jax.tree_util.keystr(path):
      return x
    steps = np.arange(len(x), dtype=np.float32).reshape(
      -1, *(1,) * (x.ndim - 1)
    )
    return x + steps / 10

  return state._replace(
    clients=jax.tree_util.tree_map_with_path(shift, state.clients)
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    {},
    pytest.param({"strategy": "vmap"}, marks=pytest.mark.long),
    pytest.param(
      {"devices": 2},  # One slot of six is empty.
      marks=pytest.mark.long,
    ),
    {"client_state": "host", "clients_per_block": 2},
  ],
  ids=str,
)
def test_what_comes_out_is_what_clients_have(how, monkeypatch):
  monkeypatch.setattr("quped_jax.simulation.programs._MODELS_AT_ONCE", 2)
  settings = tiny.make_settings("local", CLIENTS, bits=(1, 2, 32), **how)
  made = assemble(settings, federation=tiny.make_federation())
  state = apart(made.simulation.init(0))
  found = list(made.simulation.primary_models(state))
  assert sorted(own.client_id for own in found) == list(range(CLIENTS))
  for own in found:
    learner = qj.client_state(state, own.client_id)
    params, _ = alternating.deployed(jax.tree.map(jnp.asarray, learner))
    jax.tree.map(np.testing.assert_array_equal, own.params, params)
    assert own.stats == {} and own.cohort == "clients"
  kernels = [own.params["hidden_1"]["kernel"] for own in found]
  assert not np.array_equal(kernels[0], kernels[1])


def run(workdir, method="quped", federation=None, **changes):
  """A round of the tiny federation, whose samples are not normalised."""
  settings = tiny.make_settings(
    method, CLIENTS, rounds=1, steps=2, save_models="clients", **changes
  )
  federation = federation or tiny.make_federation()
  source = dataclasses.replace(
    federation.source, mean=np.float32(0.5), std=np.float32(2.0)
  )
  federation = dataclasses.replace(federation, source=source)
  result = qj.run(settings, workdir, federation=federation, display=QUIET)
  return result, federation


def files_in(workdir):
  return sorted(path.name for path in (workdir / "models").iterdir())


def names_of(clients):
  return [f"client_{i:05d}.safetensors" for i in range(clients)]


def check_accuracy(result, federation, workdir):
  """On test samples the files reach the accuracies that the run reports."""
  pool, test = federation.source, federation.test
  for row in result.clients:
    name = f"client_{row['client']:05d}.safetensors"
    path = workdir / "models" / name
    packed = qj.load_packed(path)
    first = test.offset[row["client"]]
    rows = test.rows[first : first + test.count[row["client"]]]
    classes = packed.predict(pool.inputs[rows]).argmax(axis=1)
    accuracy = np.mean(classes == pool.labels[rows])
    assert accuracy == pytest.approx(row[result.simulation.primary_variant])
    assert packed.info.client == row["client"]
    assert packed.info.method == result.summary["method"]
    assert packed.info.variant == result.simulation.primary_variant
    assert packed.info.bits == row["bits"]
    size = path.stat().st_size
    tensors = 2 * len(jax.tree.leaves((packed.params, packed.stats))) + 2
    assert 0 < size - row["model_bytes"] < 4096 + 160 * tensors


@pytest.mark.slow
def test_a_run_of_several_networks_leaves_all_its_models(tmp_path):
  result, federation = run(
    tmp_path, client_types=CLIENT_TYPES, model="mlp", hidden=(8, 8), devices=2
  )
  assert files_in(tmp_path) == [*names_of(5), "global.safetensors"]
  check_accuracy(result, federation, tmp_path)
  shared = qj.load_packed(tmp_path / "models" / "global.safetensors")
  assert shared.info.client is None and shared.info.variant == "global"
  assert shared.info.options == {"features": (8, 8)}
  jax.tree.map(
    np.testing.assert_array_equal, shared.params, result.state.server.params
  )
  other = qj.load_packed(tmp_path / "models" / "client_00004.safetensors")
  assert other.info.options == {"features": (12, 8)}


@pytest.mark.long
def test_statistics_and_levels_by_channel(tmp_path):
  result, federation = run(
    tmp_path,
    "fedavg",
    model="normed",
    hidden=(),
    bits=(1,),
    granularity="channel",
    client_state="host",
    clients_per_block=3,
  )
  assert files_in(tmp_path) == [*names_of(5), "global.safetensors"]
  check_accuracy(result, federation, tmp_path)
  packed = qj.load_packed(tmp_path / "models" / "client_00002.safetensors")
  assert set(packed.stats) == {"BatchNorm_0", "BatchNorm_1"}
  assert packed.info.granularity == "channel"


def test_files_of_cnns_say_their_widths_and_padding(tmp_path):
  images = np.random.default_rng(0).normal(size=(12, 16, 17, 1))
  data = qj.from_arrays(images, np.arange(12) % 3)
  federation = qj.make_federation(data, qj.partition(data, "iid", 2))
  settings = qj.Settings(
    method="local",
    clients=2,
    model="cnn1",
    hidden=(2, 3, 4),
    padding="valid",
    bits=2,
    batch_size=2,
    save_models="clients",
  )
  made = assemble(settings, federation=federation)
  deploy.save_models(made, made.simulation.init(0), tmp_path)
  path = tmp_path / "models" / "client_00001.safetensors"
  packed = numpy_reader.read(path)
  assert packed.about["options"] == {
    "conv_features": [2, 3],
    "dense_features": [4],
    "padding": "valid",
  }
  assert_close(
    numpy_networks.predict(packed, images), qj.load_packed(path).predict(images)
  )


def test_where_all_use_the_global_model_there_is_one_file(tmp_path):
  """And a run deletes only files that a run wrote."""
  (tmp_path / "models").mkdir()
  for name in ("client_00002.safetensors", "global_old.safetensors", "mine"):
    (tmp_path / "models" / name).touch()
  result, _ = run(tmp_path, "fedavg", bits=(32,))
  assert result.simulation.primary_variant == "global"
  assert files_in(tmp_path) == ["global.safetensors", "mine"]


def test_a_global_model_for_each_network(tmp_path):
  settings = tiny.make_settings(
    "feddf",
    CLIENTS,
    client_types="3*mlp(8,8)@32, 2*mlp(12,8)@32",
    model="mlp",
    hidden=(8, 8),
    save_models="clients",
  )
  made = assemble(settings, federation=tiny.make_federation())
  deploy.check(made, tmp_path, model_given=False)
  deploy.save_models(made, made.simulation.init(0), tmp_path)
  assert files_in(tmp_path) == [
    "global_mlp(12,8).safetensors",
    "global_mlp(8,8).safetensors",
  ]


@pytest.mark.parametrize("method", ["fedbn", "fedrep"])
def test_partial_methods_leave_no_global_model(method, tmp_path):
  """The server's own part is never trained."""
  settings = tiny.make_settings(
    method, 3, bits=(32,), model="normed", hidden=(), save_models="clients"
  )
  made = assemble(settings, federation=tiny.make_federation(tiny.COUNTS[:3]))
  deploy.check(made, tmp_path, model_given=False)
  deploy.save_models(made, made.simulation.init(0), tmp_path)
  assert files_in(tmp_path) == names_of(3)


@pytest.mark.slow
def test_a_model_that_is_not_finite_has_no_file(tmp_path):
  settings = tiny.make_settings("local", 3, save_models="clients")
  made = assemble(settings, federation=tiny.make_federation(tiny.COUNTS[:3]))
  state = made.simulation.init(0)
  learners = state.clients["clients"]
  kernel = learners.params["last"]["kernel"].at[1, 0, 0].set(jnp.nan)
  last = {**learners.params["last"], "kernel": kernel}
  broken = learners._replace(params={**learners.params, "last": last})
  state = state._replace(clients={"clients": broken})
  with (
    pytest.warns(UserWarning, match="models of client_00001 are not finite"),
  ):
    deploy.save_models(made, state, tmp_path)
  assert files_in(tmp_path) == [
    "client_00000.safetensors",
    "client_00002.safetensors",
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "workdir", "given", "message"),
  [
    ("quped", False, False, "must be 'none' without a workdir"),
    ("quped", True, True, "must be 'none' with a given model, .*register_mode"),
  ],
)
def test_models_that_cannot_be_files_are_errors_at_once(
  method, workdir, given, message, tmp_path
):
  settings = tiny.make_settings(method, CLIENTS, save_models="clients")
  model = qj.create_model("mlp", tiny.CLASSES) if given else None
  with pytest.raises(ValueError, match=f"save_models='clients': {message}"):
    qj.run(
      settings,
      tmp_path if workdir else None,
      federation=tiny.make_federation(),
      model=model,
      display=QUIET,
    )
  assert not os.path.exists(tmp_path / "config.json")


def test_an_unknown_choice_is_an_error():
  with pytest.raises(ValueError, match="save_models='all': must be one of"):
    qj.Settings(save_models="all")


@pytest.mark.slow
@pytest.mark.parametrize(
  "method", ["apfl", "fedrep", "fedkd", "per_fedavg", "fedavg_ft"]
)
def test_methods_whose_models_are_made_for_use_have_files_too(method):
  settings = tiny.make_settings(method, CLIENTS, save_models="clients")
  made = assemble(settings, federation=tiny.make_federation())
  deploy.check(made, "somewhere", model_given=False)


@pytest.mark.long
def test_a_model_whose_last_layers_are_at_the_server_has_a_file(tmp_path):
  """It predicts what the client and the server would, together."""
  settings = tiny.make_settings(
    "fedgkt", 2, bits=(2,), save_models="clients", rounds=1, steps=2,
    method_options={"fedgkt": {"hidden": (9,), "server_steps": 2}},
  )  # fmt: skip
  federation = tiny.make_federation(tiny.COUNTS[:2])
  done = qj.run(settings, tmp_path, federation=federation, display=QUIET)
  assert files_in(tmp_path) == [
    "client_00000.safetensors",
    "client_00001.safetensors",
  ]
  packed = qj.load_packed(tmp_path / "models" / "client_00001.safetensors")
  assert packed.info.back == qj.BackInfo("mlp", {"features": (9,)})
  assert (packed.info.client, packed.info.variant) == (1, "quantized")
  assert len(np.unique(packed.params["client"]["hidden_1"]["kernel"])) <= 4
  network = packed.params["server"]
  jax.tree.map(
    np.testing.assert_array_equal, network, done.state.server.network
  )
  data = federation.client(jnp.int32(1))
  batch = data.batch(jnp.arange(int(data.test.count)), "test")
  raw = np.asarray(batch.inputs) * packed.std + packed.mean
  hits = packed.predict(raw).argmax(axis=1) == np.asarray(batch.labels)
  table = done.simulation.evaluate(done.state)["test"]["quantized"]
  np.testing.assert_allclose(np.mean(hits), table[1], atol=1e-6)
