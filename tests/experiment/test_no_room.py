"""Memory that has no room for as many clients at once as were chosen."""

import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import no_room as no_room_lib
from quped_jax.simulation import program
from quped_jax.simulation.layout import Layout
from tests import tiny

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."


def settings(**changes):
  given = {"bits": (32,), "steps": 1, "rounds": 1, **changes}
  return tiny.make_settings("local", 8, **{"strategy": "auto", **given})


@pytest.fixture
def no_room(monkeypatch):
  """Has programs of rounds fail for more clients at once than there is room.

  Call it with the room, with how it shows, and with how many rounds go well
  before.
  """

  def begin(room, when, after=0):
    seen, calls = [], [0]
    run, make = program.Program.__call__, qj.make_simulation

    def call(self, *args):
      if when == "compiling" and chunk(self) > room:
        raise jax.errors.JaxRuntimeError(FULL)
      if chunk(self) > room:
        calls[0] += 1
        if calls[0] > after:
          jax.block_until_ready(run(self, *args))
          # As far as XLA came, it has taken over the buffers of the state.
          assert all(x.is_deleted() for x in jax.tree.leaves(args[0].clients))
          raise jax.errors.JaxRuntimeError(FULL)
      return run(self, *args)

    def chunk(self):
      return next((n for p, n in seen if p is self), 0)

    def remember(*args, **options):
      return note(make(*args, **options))

    def note(simulation):
      seen.append((simulation.program, simulation.layout.chunk_size))
      halved = simulation.halved
      if halved is None:
        return simulation
      return simulation._replace(halved=lambda: note(halved()))

    monkeypatch.setattr(program.Program, "__call__", call)
    monkeypatch.setattr(
      "quped_jax.experiment.assemble.make_simulation", remember
    )
    return seen

  return begin


def assert_same(result, other):
  """To rounding: before, more clients ran at once."""
  for a, b in zip(
    jax.tree.leaves(result.simulation.export(result.state)),
    jax.tree.leaves(other.simulation.export(other.state)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("when", "sizes", "where"),
  [
    ("running", [8, 4], "device"),
    ("compiling", [8, 4], "host"),
    pytest.param("compiling", [8, 4, 2], "device", marks=pytest.mark.long),
  ],
)
def test_a_run_goes_on_with_half_as_many_clients_at_once(
  no_room, when, sizes, where, tmp_path, capsys
):
  *_, before, last = sizes
  want = qj.run(settings(strategy="chunks", chunk_size=last))
  seen = no_room(last, when)
  given = settings(client_state=where)
  result = qj.run(given, tmp_path)
  # Once for each time that there was no room.
  assert [size for _, size in seen] == sizes
  assert_same(result, want)
  assert result.history == want.history
  told = capsys.readouterr().out
  for size in sizes[:-1]:
    what = f"memory had no room for {size} at once: goes on with {size // 2}"
    assert told.count(what) == 1
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["timing"]["strategy"] == "auto"
  assert summary["timing"]["clients_at_once"] == last
  assert summary["timing"]["why"] == f"memory had no room for {before} at once"
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(x) for x in lines] == json.loads(json.dumps(want.history))


@pytest.mark.slow
def test_it_goes_on_from_its_checkpoint(no_room, tmp_path, capsys):
  given = settings(rounds=3, checkpoint_every=1)
  want = qj.run(settings(rounds=3, strategy="chunks", chunk_size=4))
  no_room(4, "running", after=2)
  # Even if it was asked to begin anew.
  result = qj.run(given, tmp_path, resume=False)
  assert "goes on after round 2" in capsys.readouterr().out
  assert len(result.history) == 3
  assert_same(result, want)


@pytest.mark.slow
def test_with_a_checkpoint_a_state_that_was_given_may_be_gone(
  no_room, tmp_path
):
  middle = qj.run(settings(rounds=1))
  state = middle.simulation.export(middle.state)
  no_room(4, "running", after=1)
  given = settings(rounds=3, checkpoint_every=1)
  result = qj.run(given, tmp_path, state=middle.simulation.restore(state))
  assert [record["round"] for record in result.history] == [2, 3]
  assert result.summary["timing"]["clients_at_once"] == 4


@pytest.mark.slow
def test_a_state_that_was_given_is_used_again_unless_it_is_gone(no_room):
  first = settings(rounds=1)
  middle = qj.run(first)

  def copy():
    return middle.simulation.restore(middle.simulation.export(middle.state))

  want = qj.run(
    settings(rounds=2, strategy="chunks", chunk_size=4), state=copy()
  )
  no_room(4, "compiling")
  assert_same(qj.run(settings(rounds=2), state=copy()), want)


@pytest.mark.slow
def test_a_state_that_was_given_and_is_gone_is_an_error_that_says_so(no_room):
  middle = qj.run(settings(rounds=1))
  no_room(4, "running")
  with pytest.raises(jax.errors.JaxRuntimeError) as info:
    qj.run(settings(rounds=2), state=middle.state)
  assert "RESOURCE_EXHAUSTED" in str(info.value)
  (note,) = info.value.__notes__
  assert "taken over" in note
  assert "chunk_size=4" in note


def fake(halved) -> Any:
  layout = Layout(None, 8)
  return types.SimpleNamespace(
    halved=halved, simulation=types.SimpleNamespace(layout=layout)
  )


def test_only_an_error_for_memory_halves_what_is_ours_to_choose():
  def half():
    return fake(None)

  full = jax.errors.JaxRuntimeError(FULL)
  state: Any = jnp.zeros(2)
  assert no_room_lib.halve(full, fake(half), None) is half
  assert no_room_lib.halve(full, fake(half), state) is half
  other = jax.errors.JaxRuntimeError("INTERNAL: something else")
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL") as info:
    no_room_lib.halve(other, fake(half), None)
  assert not hasattr(info.value, "__notes__")
  with pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED") as info:
    no_room_lib.halve(full, fake(None), None)
  assert "client_state='host'" in info.value.__notes__[0]
  state.delete()
  # Clients' states in host memory are written in place.
  on_host: Any = np.zeros(2)
  for gone in (state, on_host):
    full = jax.errors.JaxRuntimeError(FULL)
    with pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED") as info:
      no_room_lib.halve(full, fake(half), gone)
    assert "chunk_size=4" in info.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("how", "room"), [({"strategy": "vmap"}, 4), ({"strategy": "auto"}, 0)]
)
def test_what_the_user_chose_stays_and_one_client_is_the_least(
  no_room, how, room
):
  seen = no_room(room, "compiling")
  with pytest.raises(jax.errors.JaxRuntimeError) as info:
    qj.run(settings(**how))
  assert len(seen) == (1 if room else 4)
  assert "client_state='host'" in info.value.__notes__[0]


def test_other_errors_stay(monkeypatch):
  def fail(*_):
    raise jax.errors.JaxRuntimeError("INTERNAL: something else")

  monkeypatch.setattr(program.Program, "__call__", fail)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    qj.run(settings())
