"""Client types: their text, budgets, and federations made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import client_types
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.client_types import ClientType, Network
from quped_jax.quantization.codebook_tree import codebook_leaves
from tests import tiny
from tests.methods import every

MLP, CNN = Network("mlp", (8, 4)), Network("cnn1")
NARROW = Network("cnn1", (2, 3, 4))


def test_client_types_are_read_from_text():
  found, counts = client_types.parse_client_types(
    "15*cnn1@1, 2 * mlp(8, 4) @32,1*cnn1@2,4*cnn1(2,3,4)@2"
  )
  assert counts == (15, 2, 1, 4)
  assert found == (
    ClientType(CNN, 1, 0),
    ClientType(MLP, 32, 1),
    ClientType(CNN, 2, 2),
    ClientType(NARROW, 2, 3),
  )
  assert [str(client_type) for client_type in found] == [
    "cnn1@1",
    "mlp(8,4)@32",
    "cnn1@2",
    "cnn1(2,3,4)@2",
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("cnn1@1", "must be clients.network@bits.*got 'cnn1@1'"),
    ("3*cnn1", "got '3.cnn1'"),
    ("3*cnn1@1,", "got ''"),
    ("0*cnn1@1", "at least 1 client of each type; got '0.cnn1@1'"),
    ("3*cnn1@9", "bits=9: must be from 1 to 8"),
    ("3*mlp(a)@1", r"got '3.mlp\(a\)@1'"),
    ("3*mlp(8 4)@1", r"got '3.mlp\(8 4\)@1'"),
    ("3*mlp(8,,4)@1", r"got '3.mlp\(8,,4\)@1'"),
    ("3*mlp(0,8)@1", r"got '3.mlp\(0,8\)@1'"),
  ],
)
def test_other_text_is_an_error(text, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(client_types=text, clients=3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"client_types": "3*cnn1@1, 2*mlp@2"},
      "add up to clients=6; got 3 . 2 = 5",
    ),
    (
      {"client_types": "6*mlp@1", "budget_bytes": (9,)},
      "budget_bytes=.*must be .. with client_types",
    ),
    ({"budget_bytes": (0,)}, "budget_bytes=0: must be at least 1"),
    ({"candidates": "mlp"}, "candidates='mlp': must be '' without budget"),
    (
      {"candidates": "a b", "budget_bytes": (9,)},
      "candidates='a b': must be networks",
    ),
    (
      {"client_types": "3*mlp@1, 3*mlp@2", "learning_rate": (0.1, 0.1, 0.1)},
      "learning_rate=.*one for each of client_types=",
    ),
  ],
)
def test_settings_that_do_not_fit_are_errors(changes, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(clients=6, **changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"client_types": "3*lenet@1, 3*mlp@2"},
      "client_types='lenet': must be one of .*mlp",
    ),
    (
      {"client_types": "6*cnn1(8)@1"},
      r"client_types='cnn1\(8\)': must have at least 2 widths",
    ),
    (
      {"candidates": "lenet", "budget_bytes": (10**6,)},
      "candidates='lenet': must be one of",
    ),
    (
      {"budget_bytes": (100, 10**6), "seed": 1},
      "budget_bytes=100: must be at least .*, the size of mlp.64,64.@1, the "
      "smallest of 1 cand",
    ),
  ],
)
def test_errors_come_before_compilation(changes, message):
  settings = qj.Settings(clients=6, hidden=(), **changes)
  with pytest.raises(ValueError, match=message):
    assemble(settings)


def test_clients_of_a_network_are_a_cohort():
  assignment = client_types.assign_counts(
    [ClientType(MLP, 1), ClientType(CNN, 2), ClientType(MLP, 32)],
    (1, 2, 2),
    held_out_clients=4,
  )
  assert assignment.bits.tolist() == [1, 2, 2, 32, 32, 1, 2, 32, 1]
  cohorts = {n: ids.tolist() for n, ids in assignment.cohorts().items()}
  assert cohorts == {MLP: [0, 3, 4, 5, 7, 8], CNN: [1, 2, 6]}
  assert assignment.first(2).labels() == ["mlp(8,4)@1", "cnn1@2"]


def test_a_budget_buys_the_largest_that_fits():
  sizes = {
    ClientType(MLP, 1): 10,
    ClientType(MLP, 32): 80,
    ClientType(CNN, 1): 40,
  }
  sizes[ClientType(CNN, 2)] = 40  # The same size as at 1 bit: more bits win.
  assignment = client_types.assign_by_budget(
    np.array([10, 39, 40, 79, 500]), sizes
  )
  assert assignment.labels() == [
    "mlp(8,4)@1",
    "mlp(8,4)@1",
    "cnn1@2",
    "cnn1@2",
    "mlp(8,4)@32",
  ]
  with pytest.raises(ValueError, match="budget_bytes=9: must be at least 10"):
    client_types.assign_by_budget(np.array([40, 9]), sizes)


def test_budgets_are_drawn_from_the_list_by_the_seed():
  drawn = client_types.draw_budgets((5, 7), 1000, seed=3)
  assert set(drawn) == {5, 7}
  assert 400 < np.sum(drawn == 5) < 600
  np.testing.assert_array_equal(
    drawn, client_types.draw_budgets((5, 7), 1000, 3)
  )
  assert (drawn != client_types.draw_budgets((5, 7), 1000, 4)).any()


def test_no_clients_model_is_larger_than_its_budget():
  settings = qj.Settings(
    clients=12,
    held_out_clients=3,
    budget_bytes=(5000, 9000, 40000),
    candidates="mlp(16,16), mlp(64,64)",
    bits=(1, 4, 32),
  )
  made = assemble(settings)
  assert made.assignment.budgets is not None
  sizes = made.model_bytes()
  assert (sizes <= made.assignment.budgets[:12]).all()
  assert len(set(made.assignment.labels())) == 3
  assert set(made.models.clients) == {"mlp(16,16)", "mlp(64,64)"}


# Federations of several networks.

CLIENT_TYPES = "2*mlp(8,8)@1, 1*mlp(8,8)@32, 2*mlp(12,8)@2"
TAKES_KINDS = (
  *("quped", "local", "fml", "fedkd", "fd", "fedmd", "ds_fl", "cfd"),
  *("feddf", "fedbe", "fedaux", "cronus", "fedgkt", "fedzkt"),
)
FAST = ("quped",)


def settings_of(method, **changes):
  return tiny.make_settings(
    method,
    5,
    **{
      "client_types": CLIENT_TYPES,
      "model": "mlp",
      "hidden": (8, 8),
      **changes,
    },
  )


def play(settings, rounds=2):
  simulation, _, _ = qj.build(settings, federation=tiny.make_federation())
  state, metrics = simulation.init(0), {}
  for _ in range(rounds):
    state, metrics = simulation.run_round(state)
  return simulation, state, metrics, simulation.evaluate(state)


def bits_for(method):
  """Client types that a method takes: some take no quantized clients."""
  try:
    play_nothing = qj.build(
      settings_of(method), federation=tiny.make_federation()
    )
  except ValueError as error:
    assert "bits" in str(error)
    return "3*mlp(8,8)@32, 2*mlp(12,8)@32"
  del play_nothing
  return CLIENT_TYPES


@pytest.mark.slow
@every.over(TAKES_KINDS, fast=FAST, slow=("fedgkt",))
def test_clients_of_several_networks_train_in_one_program(name):
  simulation, state, metrics, accuracy = play(
    settings_of(name, client_types=bits_for(name))
  )
  assert set(state.clients) == {"mlp(8,8)", "mlp(12,8)"}
  assert float(metrics["participants"]) == 5
  assert np.isfinite(float(metrics["loss"]))
  assert simulation.program.compilations == 1
  primary_variant = accuracy["test"][simulation.primary_variant]
  assert primary_variant.shape == (5,) and np.isfinite(primary_variant).all()


AVERAGE_WEIGHTS = ("fedavg", "fedprox", "scaffold", "pfedme", "ditto", "qupel")


@pytest.mark.parametrize("method", AVERAGE_WEIGHTS)
def test_who_averages_weights_refuses_several_networks(method):
  with pytest.raises(ValueError, match="client_types: must be of one network"):
    play(settings_of(method, client_types="3*mlp(8,8)@32, 2*mlp(12,8)@32"))


def test_default_widths_are_the_same_network_as_those_written_out():
  settings = qj.Settings(clients=6, client_types="6*mlp@1", hidden=(64, 64))
  made = assemble(settings)
  assert list(made.models.clients) == ["clients"]
  assert made.models.clients["clients"] is made.models.shared


def test_budgets_that_buy_full_precision_train_without_levels():
  settings = qj.Settings(
    method="apfl", clients=4, budget_bytes=(40000,), bits=(1, 32)
  )
  assert set(assemble(settings).assignment.labels()) == {"mlp(64,64)@32"}


@pytest.mark.slow
def test_a_cohort_of_full_precision_has_no_levels():
  """It makes none of the passes that quantized cohorts need."""
  _, state, _, _ = play(
    settings_of("quped", client_types="3*mlp(8,8)@1, 2*mlp(12,8)@32")
  )
  with_levels, without = (
    list(codebook_leaves(state.clients[name].codebooks))
    for name in ("mlp(8,8)", "mlp(12,8)")
  )
  assert with_levels and not without


def test_client_types_of_one_network_are_one_cohort():
  _, state, _, _ = play(
    settings_of("fedavg", client_types="2*mlp(8,8)@1, 3*mlp(8,8)@32")
  )
  assert set(state.clients) == {"clients"}


@pytest.mark.parametrize(
  "how",
  [
    {"client_state": "host", "clients_per_block": 2},
    pytest.param({"devices": 2}, marks=pytest.mark.long),
    pytest.param({"strategy": "vmap"}, marks=pytest.mark.long),
    pytest.param({"strategy": "dispatch"}, marks=pytest.mark.long),
  ],
)
@pytest.mark.slow
def test_some_of_several_client_types_take_part_however_they_are_run(how):
  _, expected, metrics, accuracy = play(
    settings_of("quped", clients_per_round=3)
  )
  _, got, others, again = play(settings_of("quped", clients_per_round=3, **how))
  assert float(metrics["participants"]) == float(others["participants"]) == 3
  server = tiny.to_host(expected).server, tiny.to_host(got).server
  assert tiny.largest_difference(*server) < 1e-5
  for variant, values in accuracy["test"].items():
    np.testing.assert_allclose(values, again["test"][variant], atol=0.2)
  for cohort, clients in expected.clients.items():
    count = len(np.flatnonzero(np.asarray(got.members[cohort]) >= 0))
    own = jax.tree.map(lambda x, n=count: x[:n], (clients, got.clients[cohort]))
    assert tiny.largest_difference(*own) < 1e-4


@pytest.mark.slow
def test_a_run_reports_every_client_type(tmp_path):
  settings = settings_of("quped", rounds=1)
  result = qj.run(
    settings,
    tmp_path,
    federation=tiny.make_federation(),
    display=qj.Display(quiet=True),
  )
  found = result.summary["client_types"]
  assert {k: v["clients"] for k, v in found.items()} == {
    "mlp(8,8)@1": 2,
    "mlp(8,8)@32": 1,
    "mlp(12,8)@2": 2,
  }
  assert (
    found["mlp(8,8)@1"]["model_bytes"] < found["mlp(8,8)@32"]["model_bytes"]
  )
  models = [row["model"] for row in result.clients]
  assert models == ["mlp(8,8)"] * 3 + ["mlp(12,8)"] * 2
  # A client's own state, out of its cohort.
  own = qj.client_state(result.state, 4)
  assert own is not None


def test_size_of_a_model():
  model = qj.create_model("mlp", 10, features=(9, 7))
  params, stats = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 5))
  )
  rest = 5 * 9 + 7 * 10 + 9 + 7 + 10

  def size(bits, **kwargs):
    return client_types.model_bytes(
      params, stats, model.is_quantized, bits, **kwargs
    )

  assert size(32) == 4 * (rest + 63)
  # 63 weights at 1 bit take 8 bytes, and there are two levels.
  assert size(1) == 4 * rest + 8 + 2 * 4
  assert size(3) == 4 * rest + 24 + 8 * 4
  assert size(2, channelwise=True) == 4 * rest + 16 + 7 * 4 * 4
  statistics_of_norm = {"mean": jax.ShapeDtypeStruct((3,), jnp.float32)}
  more = client_types.model_bytes(
    params, statistics_of_norm, lambda p: False, 1
  )
  assert more == size(32) + 12
