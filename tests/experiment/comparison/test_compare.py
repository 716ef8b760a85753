"""Methods side by side, in one call."""

import json
import pathlib
import sys
import tempfile

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison import compare as compare_lib
from quped_jax.experiment.comparison import plan, report
from quped_jax.experiment.divergence_reports import DivergenceError
from tests.experiment.comparison import small

TINY = {
  "clients": 3,
  "classes_per_client": 4,
  "hidden": (8,),
  "rounds": 2,
  "steps": 2,
  "devices": 1,
}


def plan_of(monkeypatch, *args, **how):
  """The runs of a comparison, none of which is run."""
  seen = {}

  def carry_out(config, workdir, *, sources, **rest):
    seen.update(rest, config=config, workdir=workdir, sources=sources)
    seen["runs"] = plan.make_runs(config, workdir)
    seen["titles"] = plan.titles_of(config)
    return small.make_comparison(folder=workdir)

  monkeypatch.setattr(report, "carry_out", carry_out)
  seen["found"] = qj.compare(*args, **how)
  return seen


def rows(seen):
  return list(dict.fromkeys(run.row for run in seen["runs"]))


@pytest.mark.parametrize(
  ("bits", "expected"),
  [
    ([32, 1, (1, 2, 32)], [(32,), (1,), (1, 2, 32)]),
    (1, [(1,)]),
    ("32; 1,2", [(32,), (1, 2)]),
    (np.array([2, 4]), [(2,), (4,)]),
    ([[1, 2]], [(1, 2)]),
    ((32, (1, 2)), [(32,), (1, 2)]),
    ((8,), [(8,)]),
    (range(1, 3), [(1,), (2,)]),
    (None, [(2, 32)]),
  ],
)
def test_a_list_of_bits_is_rows_and_a_tuple_clients_in_turn(
  bits, expected, monkeypatch
):
  settings = qj.Settings(bits=(2, 32), clients=4)
  seen = plan_of(monkeypatch, "local", bits, settings=settings)
  assert [row.bits for row in rows(seen)] == expected


def test_a_bare_tuple_of_bits_could_mean_either(monkeypatch):
  message = (
    r"bits=\(1, 2\): must be a list, \[1, 2\] for 2 rows, or \[\(1, 2\)\] for "
    "one whose clients take turns"
  )
  with pytest.raises(ValueError, match=message):
    plan_of(monkeypatch, "local", (1, 2))
  with pytest.raises(ValueError, match="overrides.local.bits=.*must be a list"):
    plan_of(monkeypatch, "local", 1, overrides={"local": {"bits": (1, 2)}})


def test_settings_are_shared_changed_by_name_and_overridden(monkeypatch):
  seen = plan_of(
    monkeypatch,
    ["quped", "mine"],
    [1],
    range(2),
    qj.Settings(clients=7, quped={"lambda_p": 0.3}, rounds=9),
    overrides={
      "quped": {"learning_rate": 0.2, "quped.temperature": 2.0},
      "mine": {"method": "ditto", "ditto": {"lambda_p": 0.7}, "bits": [32, 2]},
      "mine_2": {"momentum": 0.5},
    },
    titles={"mine": "Mine"},
    rounds=4,
  )
  names = [(run.row.name, run.settings.seed) for run in seen["runs"]]
  assert names == [
    ("quped_1", 0), ("mine_32", 0), ("mine_2", 0),
    ("quped_1", 1), ("mine_32", 1), ("mine_2", 1),
  ]  # fmt: skip
  quped, full, two = (run.settings for run in seen["runs"][:3])
  assert (quped.clients, quped.rounds) == (7, 4)
  assert quped.learning_rate == (0.2,) != full.learning_rate
  assert quped.options().lambda_p == 0.3
  assert quped.options().temperature == 2.0
  assert full.method == "ditto" and full.options().lambda_p == 0.7
  assert (full.momentum, two.momentum) == (qj.Settings().momentum, 0.5)
  assert seen["titles"] == {"mine": "Mine"}


def test_a_federation_says_how_many_clients_there_are(monkeypatch):
  federation = build_federation(qj.Settings(clients=5, held_out_clients=2))
  seen = plan_of(
    monkeypatch, ["local"], federation=federation, held_out_clients=2
  )
  assert {run.settings.clients for run in seen["runs"]} == {5}
  assert seen["sources"].given is federation
  with pytest.raises(ValueError, match="federation: must be a Federation"):
    plan_of(monkeypatch, ["local"], federation=3)


@pytest.mark.parametrize(
  ("how", "message"),
  [
    ({"seed": 3}, "seed=3: must be given as seeds"),
    ({"method": "quped"}, "method='quped': must be given as methods"),
    ({"settings": {}}, "settings: must be a Settings"),
    ({"roundz": 3}, "roundz=3"),
    ({"seeds": ()}, r"seeds=\(\): must have at least one entry"),
    ({"save_models": "clients"}, "save_models='clients': .* without a workdir"),
    ({"titles": {"nope": "No"}}, "titles='nope': must be one of"),
    ({"titles": {"local": 3}}, "titles.local=3: must be text"),
  ],
)
def test_mistakes_are_named_before_anything_is_run(how, message, monkeypatch):
  with pytest.raises(ValueError, match=message):
    plan_of(monkeypatch, ["local"], **how)


def temporary():
  return set(pathlib.Path(tempfile.gettempdir()).glob("quped_compare_*"))


def test_without_a_workdir_nothing_is_left(monkeypatch):
  before = temporary()
  seen = plan_of(monkeypatch, ["local"])
  assert not seen["workdir"].exists() and temporary() == before
  assert seen["found"].folder is None


def test_with_one_it_holds_what_came_out(monkeypatch, tmp_path):
  # Without figures, which take their time; `test_result` has them.
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  seen = plan_of(monkeypatch, ["local"], workdir=tmp_path / "new")
  assert seen["found"].folder == tmp_path / "new"
  assert (tmp_path / "new" / "table.tex").is_file()


def test_what_was_run_before_an_error_is_kept(monkeypatch):
  def fails(config, workdir, **how):
    folder = workdir / "runs" / "local_32_seed0"
    folder.mkdir(parents=True)
    if config["base"]["rounds"] > 1:
      (folder / "summary.json").write_text("{}")
    raise DivergenceError("all of them")

  monkeypatch.setattr(report, "carry_out", fails)
  before = temporary()
  with pytest.raises(DivergenceError):
    qj.compare(["local"], rounds=1)
  assert temporary() == before
  with pytest.raises(DivergenceError) as caught:
    qj.compare(["local"], rounds=2)
  (folder,) = temporary() - before
  (note,) = caught.value.__notes__
  assert str(folder) in note and "workdir goes on" in note
  (folder / "runs" / "local_32_seed0" / "summary.json").unlink()
  for path in (folder / "runs" / "local_32_seed0", folder / "runs", folder):
    path.rmdir()


def test_several_processes_are_refused(monkeypatch):
  monkeypatch.setattr(compare_lib.jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="processes=2: must be 1 for a compar"):
    qj.compare(["local"])


def given_data(workdir):
  """A comparison of two step sizes, which share their programs."""
  federation = build_federation(qj.Settings(**TINY))
  return federation, {
    "bits": [32],
    "seeds": (0, 1),
    "workdir": workdir,
    "overrides": {"faster": {"method": "local", "learning_rate": 0.3}},
    "federation": federation,
    "model": qj.create_model("mlp", 10, features=(8,)),
    **TINY,
  }


def test_a_comparison_of_given_data_from_its_first_run_to_its_table(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  federation, call = given_data(tmp_path)
  found = qj.compare(["local", "faster"], **call)
  assert "4 of 4 runs to do" in capsys.readouterr().out
  assert [row["method"] for row in found.rows] == ["local", "faster"]
  assert found.same_clients and found.rows[1]["difference_low"] is not None
  # Seeds have the same samples, and differ in the rest.
  one, other = (found.run("faster", seed=seed) for seed in (0, 1))
  assert one.history[0]["loss"] != other.history[0]["loss"]
  identities = [
    json.loads((tmp_path / "runs" / name / "identity.json").read_text())
    for name in ("local_32_seed0", "faster_32_seed1")
  ]
  assert identities[0]["data"] == identities[1]["data"]
  count = np.asarray(federation.test.count)
  assert all((x == count).all() for x in found.test_samples.values())
  # There is nothing left to do, unless the data is not the same.
  assert repr(qj.compare(["local", "faster"], **call)) == repr(found)
  assert "0 of 4 runs to do" in capsys.readouterr().out
  call["federation"] = build_federation(qj.Settings(**TINY, seed=5))
  with pytest.raises(ValueError, match="4 of the 4 runs .* data is not the sa"):
    qj.compare(["local", "faster"], **call)


@pytest.mark.slow
def test_a_loss_and_metrics_of_ones_own_are_those_of_all_runs(tmp_path):
  """On values, whose score follows from the data alone."""
  inputs = np.random.default_rng(0).normal(size=(60, 4))
  data = qj.from_arrays(
    inputs, inputs[:, :2] * 3, targets="values", client=np.arange(60) % 3
  )
  call = {
    "bits": [32],
    "seeds": 0,
    "workdir": tmp_path,
    "federation": qj.make_federation(data),
    "metrics": {"off": lambda y, t: jnp.abs(y - t).sum(axis=-1)},
    "quiet": True,
    **{k: v for k, v in TINY.items() if k != "classes_per_client"},
  }
  found = qj.compare("fedavg", loss=optax.l2_loss, **call)
  assert "r2" in found.rows[0]
  assert found.run("fedavg").summary["metrics"]["off"]["global"]["pooled"] > 0
  with pytest.raises(ValueError, match="loss function is not the same"):
    qj.compare("fedavg", loss=lambda y, t: jnp.abs(y - t), **call)


@pytest.mark.slow
def test_its_runs_are_those_that_their_settings_alone_give():
  _, call = given_data(None)
  found = qj.compare(["local", "faster"], **call, quiet=True)
  settings = qj.Settings(
    **TINY, method="local", bits=(32,), seed=1, learning_rate=0.3
  )
  alone = qj.run(
    settings,
    federation=call["federation"],
    model=call["model"],
    display=qj.Display(quiet=True),
  )
  run = found.run("faster", seed=1)
  assert run.history[-1]["loss"] == pytest.approx(
    alone.history[-1]["loss"], rel=1e-4
  )
  assert run.scores == pytest.approx([x["personalized"] for x in alone.clients])
