"""All figures of a run."""

import importlib.util
import shutil
from typing import Any

import pytest

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

import quped_jax as qj  # noqa: E402
from quped_jax.data import SyntheticSource  # noqa: E402
from quped_jax.data.synthetic_federation import (  # noqa: E402
  synthetic_federation,
)
from quped_jax.experiment.figures import run_figures, style  # noqa: E402
from quped_jax.experiment.figures.run_figures import (  # noqa: E402
  leave,  # Before conftest.py replaces it, for runs of other tests.
)
from tests import tiny  # noqa: E402
from tests.experiment.figures import made, test_run_data  # noqa: E402

NAMES = [
  "accuracy_over_rounds", "accuracy_by_client", "levels", "bytes",
]  # fmt: skip


def test_they_are_drawn_of_a_workdir_and_of_a_result(tmp_path):
  run = made.run()
  test_run_data.leave(run, tmp_path)
  for source in (tmp_path, str(tmp_path), test_run_data.result_of(run)):
    found = qj.plot_run(source)
    assert list(found) == NAMES
    assert all(isinstance(x, style.Figure) for x in found.values())


def test_what_a_run_has_not_is_not_drawn():
  run = made.run(bits=(32,), tensors=(), sent=0.0, score="r2")
  found = qj.plot_run(test_run_data.result_of(run))
  assert list(found) == ["r2_over_rounds", "r2_by_client"]


@pytest.mark.slow
def test_they_are_written_as_png_and_svg_the_same_each_time(tmp_path):
  test_run_data.leave(made.run(), tmp_path)
  paths = run_figures.draw(tmp_path)
  assert [path.name for path in paths] == [
    f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
  ]
  assert {path.parent for path in paths} == {tmp_path / "figures"}
  before = {path: path.read_bytes() for path in paths}
  assert run_figures.draw(tmp_path) == paths
  assert {path: path.read_bytes() for path in paths} == before
  for path in paths:
    assert path.stat().st_size < 300_000


def test_those_of_an_earlier_run_go_and_no_other_file(tmp_path):
  test_run_data.leave(made.run(), tmp_path)
  run_figures.draw(tmp_path)
  of_the_user = tmp_path / "figures" / "mine.png"
  of_the_user.touch()
  run_figures.clear(tmp_path)
  assert list((tmp_path / "figures").iterdir()) == [of_the_user]
  of_the_user.unlink()
  run_figures.clear(tmp_path)
  assert not (tmp_path / "figures").exists()
  run_figures.clear(tmp_path)


@pytest.mark.slow
def test_a_run_that_ends_leaves_its_partition_too(tmp_path):
  result = test_run_data.result_of(made.run())
  folder = tmp_path / "figures"
  leave(result, tmp_path, print, tiny.make_federation())
  assert (folder / "partition.png").read_bytes().startswith(b"\x89PNG")
  assert b"<svg" in (folder / "partition.svg").read_bytes()
  run_figures.clear(tmp_path)
  assert not folder.exists()
  many = synthetic_federation(SyntheticSource(0), 100_000)
  leave(result, tmp_path, print, many)
  assert {path.stem for path in folder.iterdir()} == set(NAMES)


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"summary\.json: must be that of a"):
    qj.plot_run(tmp_path)
  number: Any = 3
  with pytest.raises(ValueError, match="workdir=3: must be a path"):
    qj.plot_run(number)


def test_a_failure_to_draw_is_a_warning(tmp_path):
  result = test_run_data.result_of(made.run())
  (tmp_path / "figures").write_text("in the way")
  with pytest.warns(UserWarning, match="figures could not be drawn .*complete"):
    leave(result, tmp_path, print)


def test_without_matplotlib_a_run_says_so_and_plot_run_refuses(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  result, said = test_run_data.result_of(made.run()), []
  leave(result, tmp_path, said.append)
  assert said == ["figures need matplotlib: pip install 'quped_jax[plot]'"]
  assert not list(tmp_path.iterdir())
  with pytest.raises(ImportError, match="pip install"):
    qj.plot_run(result)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_leaves_its_figures_if_it_is_to(tmp_path, monkeypatch, wanted):
  monkeypatch.setattr(run_figures, "leave", leave)
  settings = tiny.make_settings("quped", 5, rounds=2, figures=wanted)
  result = qj.run(
    settings,
    tmp_path,
    federation=tiny.make_federation(),
    display=qj.Display(quiet=True),
  )
  drawn = {path.stem for path in (tmp_path / "figures").glob("*")}
  assert drawn == ({*NAMES, "partition"} if wanted else set())
  assert [x["round"] for x in result.figure_records] == [0, 1, 2] * wanted
  assert (tmp_path / "figures.jsonl").exists() == wanted
  if wanted:
    shutil.rmtree(tmp_path / "figures")
    assert {path.stem for path in run_figures.draw(tmp_path)} == set(NAMES)
    assert list(qj.plot_run(result)) == NAMES
