"""Who takes part in a round: probabilities, traces, dropouts, stragglers."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax import chances, random_keys
from quped_jax.methods import api
from quped_jax.simulation.participation import Participation, load_trace
from tests import tiny
from tests.by_hand import by_hand
from tests.hostile import cases, damaged, other_text, read_or_refused

COHORT = tiny.COHORT


def draws(participation, clients, rounds=200, seed=0):
  """Who was there, bool `[rounds, clients]`."""
  key = jax.random.key(seed)
  present = jax.vmap(lambda r: participation.present(key, r, clients))
  return np.asarray(present(jnp.arange(rounds)))


def test_nothing_said_is_everyone():
  assert Participation().is_everyone(5)
  assert Participation(count=5).is_everyone(5)
  assert not Participation(count=4).is_everyone(5)
  assert not Participation(dropout=chances.make(0.1)).is_everyone(5)
  assert draws(Participation(), 5).all()


def test_a_count_is_drawn_uniformly():
  present = draws(Participation(count=3), 10, rounds=2000)
  assert (present.sum(axis=1) == 3).all()
  np.testing.assert_allclose(present.mean(axis=0), 0.3, atol=0.05)
  assert Participation(count=3).most(10) == 3
  assert Participation(count=3).mean(10) == 3 and Participation().mean(9) == 9


def test_chances_are_each_clients_own():
  participation = Participation(probability=chances.make([0.1, 0.5, 1.0]))
  present = draws(participation, 3, rounds=4000)
  np.testing.assert_allclose(present.mean(axis=0), [0.1, 0.5, 1], atol=0.03)
  together = (present[:, 0] & present[:, 1]).mean()
  assert abs(together - 0.05) < 0.02
  assert participation.most(3) == 3
  assert participation.mean(3) == pytest.approx(1.6, rel=1e-15)


def test_draws_are_those_of_uniform_numbers():
  """Which have as many bits as they need, except in a tie."""
  shares = np.array([0.1, 0.3, 0.6, 0.95])
  participation = Participation(
    probability=chances.make(shares), dropout=chances.make(0.2)
  )
  key = jax.random.key(0)

  def expected(round_):
    round_key = jax.random.fold_in(key, round_)
    present, dropped = (
      jax.random.uniform(jax.random.fold_in(round_key, number), (4,))
      for number in (random_keys.SELECTION, random_keys.DROPOUT)
    )
    return (present < shares) & (dropped >= 0.2)

  np.testing.assert_array_equal(
    draws(participation, 4, 500), jax.vmap(expected)(jnp.arange(500))
  )


def test_drop_outs_are_some_of_those_who_were_there():
  with_all = draws(Participation(count=4), 10)
  dropped = draws(Participation(count=4, dropout=chances.make(0.25)), 10)
  assert not (dropped & ~with_all).any()
  assert abs(dropped.sum() / with_all.sum() - 0.75) < 0.06


def test_stragglers_take_fewer_steps_by_their_own_draw():
  participation = Participation(stragglers=chances.make(0.4), steps=5)
  keys = jax.random.split(jax.random.key(1), 4000)
  steps = np.asarray(jax.vmap(participation.num_steps)(keys))
  assert set(steps) == {1, 2, 3, 4, 5}
  slow = steps < 5
  assert abs(slow.mean() - 0.4) < 0.03
  np.testing.assert_allclose(
    [np.mean(steps[slow] == n) for n in range(1, 5)], 0.25, atol=0.04
  )
  assert Participation().num_steps(keys[0]) is None


def test_stragglers_take_fewer_steps_than_their_own():
  participation = Participation(
    stragglers=chances.make(0.4), own_steps=jnp.array([1, 2, 5]), steps=5
  )
  assert participation.steps_of(1) == 2
  keys = jax.random.split(jax.random.key(1), 2000)
  for i, own in enumerate((1, 2, 5)):
    steps = np.asarray(
      jax.vmap(
        lambda key, i=i: participation.num_steps(
          key, participation.steps_of(jnp.int32(i))
        )
      )(keys)
    )
    assert set(steps) == set(range(1, own + 1))
    if own > 1:
      assert abs((steps < own).mean() - 0.4) < 0.04
  prompt = Participation(own_steps=jnp.array([3, 4]), steps=4)
  assert prompt.num_steps(keys[0], prompt.steps_of(1)) == 4
  assert Participation(steps=4).steps_of(1) is None


def write_trace(folder, *lines, header="round,client"):
  path = folder / "trace.csv"
  path.write_text("\n".join([header, *lines]) + "\n")
  return path


def test_a_trace_says_who_is_there(tmp_path):
  # In any order, with a line twice, and nobody in round 1.
  path = write_trace(tmp_path, "2,4", "0,1", "2,0", "0,3", "2,3", "0,1")
  trace = load_trace(path, 5, 4)
  assert (trace.rounds, trace.most) == (4, 3)
  assert Participation(trace=trace).mean(5) == 5 / 4
  present = draws(Participation(trace=trace), 5, rounds=4)
  who = [np.flatnonzero(row).tolist() for row in present]
  assert who == [[1, 3], [], [0, 3, 4], []]


@pytest.mark.parametrize(
  ("lines", "header", "message"),
  [
    (["0,5"], "round,client", "line 2: client='5': must be .* from 0 to 4"),
    (["0,1", "3,1"], "round,client", "line 3: round='3': must .* from 0 to 2"),
    (["0,-1"], "round,client", "line 2: client='-1': must be a whole number"),
    (["0,x"], "round,client", "line 2: client='x': must be a whole number"),
    (["0,"], "round,client", "line 2: client='': must be a whole number"),
    (["0"], "round,client", "line 2: must have 2 entries; got 1"),
    (["0,1,2"], "round,client", "line 2: must have 2 entries; got 3"),
    (["0,1.0"], "round,client", "line 2: client='1.0': must be a whole"),
    (["0,1_0"], "round,client", "line 2: client='1_0': must be a whole"),
    (["0,\u0661"], "round,client", "line 2: client='\u0661': must be a whole"),
    (["0,+1"], "round,client", r"line 2: client='\+1': must be a whole"),
    (["0,1" + "0" * 18], "round,client", "line 2: client='10*': must be"),
    (["0,1"], "time,client", "must have the columns round,client, each once"),
    (["0,1,1"], "round,client,client", "round,client, each once; got 'round,"),
    (["0,'1"], "", "must have the columns round,client, each once; got none"),
    (['0,"1'], "round,client", "line 2: unexpected end of data"),
    ([], "round,client", "must name at least one client"),
  ],
)
def test_a_wrong_trace_is_an_error(tmp_path, lines, header, message):
  path = write_trace(tmp_path, *lines, header=header)
  with pytest.raises(ValueError, match=f"participation_trace=.*{message}"):
    load_trace(path, 5, 3)


def test_a_trace_of_a_spreadsheet_is_read(tmp_path):
  """With a mark of its encoding, other ends of lines, quotes and spaces."""
  path = tmp_path / "trace.csv"
  text = 'client,who,round\r\n"1","a, b",0\r\n\r\n 4 ,c,2'
  path.write_text(text, encoding="utf-8-sig", newline="")
  trace = load_trace(path, 5, 3)
  assert trace.clients.tolist() == [1, 4]
  assert trace.offsets.tolist() == [0, 1, 1, 2]


def test_a_trace_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="participation_trace=.*nope.csv"):
    load_trace(tmp_path / "nope.csv", 5, 3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"participation": (0.0,)}, "participation=.*must be chances in"),
    ({"participation": (1.5,)}, "participation=.*must be chances in"),
    ({"participation": (0.5, 1e-13)}, "participation=.*at least 9.1e-13"),
    ({"participation": (float("nan"),)}, "participation=.*must be chances in"),
    ({"dropout": 1e-13}, "dropout=1e-13: must be 0, or from 9.1e-13"),
    ({"stragglers": 1e-13}, "stragglers=1e-13: must be 0, or from 9.1e-13"),
    ({"dropout": 1.0}, "dropout=1.0: must be a chance in"),
    ({"dropout": -0.1}, "dropout=-0.1: must be a chance in"),
    ({"stragglers": 1.1}, "stragglers=1.1: must be from 0 to 1"),
    ({"stragglers": 0.5, "steps": 1}, "stragglers=0.5: must be 0 with steps=1"),
    (
      {"participation": (0.5,), "clients_per_round": 3},
      "participation=.*must not be set beside clients_per_round=3",
    ),
    (
      {"participation_trace": "x.csv", "participation": (0.5,)},
      "participation_trace='x.csv': must not be set beside participation",
    ),
  ],
)
def test_what_cannot_be_is_an_error(changes, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(**changes)


def test_stragglers_of_two_steps_take_one():
  assert qj.Settings(stragglers=0.5, steps=2).steps == 2
  participation = Participation(stragglers=chances.make(1.0), steps=2)
  assert participation.num_steps(jax.random.key(0)) == 1


# In a federation.


def play(rounds=1, method="quped", clients=5, bits=tiny.FEW, **changes):
  settings = tiny.make_settings(method, clients, bits=bits, **changes)
  made = tiny.assemble(settings)
  state, metrics = made.simulation.init(0), {}
  start = tiny.to_host(state)
  for _ in range(rounds):
    state, metrics = made.simulation.run_round(state)
  return start, tiny.to_host(state), metrics, made


def changed(start, end):
  """Which clients' states have changed."""
  pairs = zip(
    jax.tree.leaves(start.clients), jax.tree.leaves(end.clients), strict=True
  )
  differ = [
    [not np.array_equal(a[i], b[i]) for i in range(len(tiny.COUNTS))]
    for a, b in pairs
  ]
  return np.any(differ, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    {"strategy": "dispatch"},
    *(
      pytest.param(how, marks=pytest.mark.long)
      for how in ({}, {"strategy": "vmap"}, {"devices": 2})
    ),
  ],
)
def test_a_traces_clients_alone_take_part(tmp_path, how):
  path = write_trace(tmp_path, "0,1", "0,4")
  start, end, metrics, _ = play(participation_trace=str(path), **how)
  assert changed(start, end).tolist() == [False, True, False, False, True]
  assert float(metrics["participants"]) == 2


@pytest.mark.slow
def test_a_round_without_anyone_changes_nothing(tmp_path):
  path = write_trace(tmp_path, "1,2")
  settings = tiny.make_settings(
    "quped", 5, participation_trace=str(path), rounds=3, bits=tiny.FEW
  )
  made = tiny.assemble(settings)
  state = made.simulation.init(0)
  start = tiny.to_host(state)
  state, metrics = made.simulation.run_round(state)
  end = tiny.to_host(state)
  assert float(metrics["participants"]) == 0
  assert np.isnan(float(metrics["loss"]))
  assert not changed(start, end).any()
  assert tiny.largest_difference(start.server, end.server) == 0
  assert int(end.round) == 1


@pytest.mark.slow
def test_a_straggler_takes_its_own_number_of_steps():
  """It ends where a client with that many steps per round ends."""
  _, end, _, made = play(method="local", stragglers=1.0, steps=4)
  key = jax.random.key(0)
  participation = made.population.participation
  short = {}
  for i in range(5):
    client_key = jax.random.fold_in(jax.random.fold_in(key, 0), i)
    steps = participation.num_steps(client_key)
    assert steps is not None and 1 <= steps < 4
    short[i] = int(steps)
  assert len(set(short.values())) > 1
  full = tiny.assemble(tiny.make_settings("local", 5, steps=4))
  state = full.simulation.init(0)

  def update(i, num_steps):
    spec, rates = full.population.of_client(i)
    context = api.Context(
      round=jnp.int32(0),
      key=jax.random.fold_in(jax.random.fold_in(key, 0), i),
      client_id=i,
      spec=spec,
      rates=rates,
      shared_learning_rate=full.population.shared_learning_rate,
      num_steps=num_steps,
    )
    client = jax.tree.map(lambda x: x[i], state.clients[COHORT])
    return full.method.client_update(
      full.method.broadcast(state.server, context, COHORT),
      client,
      full.federation.client(i),
      context,
      COHORT,
    ).client

  update = jax.jit(update)
  for i, steps in short.items():
    expected = update(jnp.int32(i), jnp.int32(steps))
    got = jax.tree.map(lambda x, i=i: x[i], end.clients[COHORT])
    assert tiny.largest_difference(expected, got) < 1e-6


@pytest.mark.long
def test_other_chances_compile_nothing():
  made = tiny.assemble(
    tiny.make_settings("local", 5, stragglers=0.5, dropout=0.5)
  )
  state = made.simulation.init(0)
  counts = set()
  for _ in range(8):
    state, metrics = made.simulation.run_round(state)
    counts.add(int(metrics["participants"]))
  assert made.simulation.program.compilations == 1
  assert len(counts) > 1 and max(counts) <= 5


TRACE = "round,client\n0,1\n0,3\n2,4\n1,0\n"


@given(data=st.data())
@cases(50)
def test_a_hostile_trace_is_right_or_refused(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / "hostile.csv"
  text = data.draw(
    st.one_of(other_text(TRACE), damaged(TRACE.encode()).map(bytes))
  )
  path.write_bytes(text)
  found = read_or_refused(
    lambda: load_trace(path, 5, 3),
    f"participation_trace={str(path)!r}: must be a CSV file",
  )
  if found is None:
    return
  rows = list(csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")))
  names, *rows = rows
  at = [names.index(name) for name in ("round", "client")]
  # Digits that Python's own reader takes for no other number.
  said = sorted({tuple(int(row[i]) for i in at) for row in rows if row})
  offsets = found.offsets.tolist()
  listed = [
    (round_, client)
    for round_ in range(3)
    for client in found.clients[offsets[round_] : offsets[round_ + 1]].tolist()
  ]
  assert listed == said
  assert all(row[i].strip(" ").isascii() for row in rows if row for i in at)


UNEVEN = {
  "epochs": 2, "epochs_of": "each", "batch_size": 4, "bits": (32,),
  "learning_rate": (0.1,), "hidden": (8, 8),
}  # fmt: skip
OF_TWO = tiny.make_federation((8, 20))


@pytest.mark.parametrize(
  "how",
  [
    {},
    pytest.param({"strategy": "vmap"}, marks=pytest.mark.slow),
    pytest.param({"devices": 2}, marks=pytest.mark.slow),
  ],
)
def test_with_epochs_of_each_clients_train_as_long_as_alone(how):
  """Of 8 and 20 samples, two epochs of batch 4 are 4 and 10 steps."""
  settings = tiny.make_settings("fedavg", 2, **UNEVEN, **how)
  made = qj.build(settings, federation=OF_TWO)
  state = made.simulation.init(0)
  start = jax.tree.map(np.array, state.server.model.params)
  state, metrics = made.simulation.run_round(state)
  few, many = (
    by_hand(made.model, OF_TWO, start, i, n) for i, n in ((0, 4), (1, 10))
  )
  mean = jax.tree.map(lambda a, b: (8 * a + 20 * b) / 28, few[0], many[0])
  assert tiny.largest_difference(state.server.model.params, mean) < 1e-6
  assert float(metrics["loss"]) == pytest.approx(
    (np.mean(few[1]) + np.mean(many[1])) / 2, rel=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "how", [pytest.param({}, marks=pytest.mark.long), {"client_state": "host"}]
)
def test_it_is_so_in_every_round_and_for_models_of_their_own(how):
  """Also where some of the levels are trained, and if few take part."""
  changes = {**UNEVEN, "bits": (2, 32), "clients_per_round": 1, **how}
  settings = tiny.make_settings("local", 2, **changes)
  found = play_rounds(settings, 4)
  for client_id, steps in ((0, 4), (1, 10)):
    alone = tiny.make_settings(
      "local",
      2,
      **{**changes, "epochs": 0, "epochs_of": "average"},
      steps=steps,
    )
    expected = play_rounds(alone, 4)
    assert (
      tiny.largest_difference(
        qj.client_state(found, client_id), qj.client_state(expected, client_id)
      )
      < 1e-6
    )


def play_rounds(settings, rounds):
  made = qj.build(settings, federation=OF_TWO)
  state, _ = made.simulation.run_rounds(made.simulation.init(0), rounds)
  return made.simulation.export(state)


@pytest.mark.slow
def test_stragglers_are_as_slow_with_epochs_of_each():
  settings = tiny.make_settings("local", 2, **UNEVEN, stragglers=1.0)
  found = play_rounds(settings, 1)
  made = qj.build(settings, federation=OF_TWO)
  _, population = made.simulation.data
  participation = population.participation
  start = made.simulation.init(0)
  for client_id, most in ((0, 4), (1, 10)):
    key = jax.random.fold_in(
      jax.random.fold_in(jax.random.key(0), 0), client_id
    )
    steps = participation.num_steps(key, participation.steps_of(client_id))
    assert steps is not None and 1 <= int(steps) < most
    learner = qj.client_state(start, client_id)
    expected, _ = by_hand(
      made.model, OF_TWO, learner.params, client_id, int(steps)
    )
    own = qj.client_state(found, client_id)
    assert tiny.largest_difference(own.params, expected) < 1e-6
