"""Writing reports."""

import pytest

import quped_jax as qj
from quped_jax.experiment import optional
from tests.experiment.report import made


def test_the_same_files_make_the_same_report(tmp_path):
  folder = made.run(tmp_path / "run")
  first = qj.write_report(folder, tmp_path / "a.html")
  second = qj.write_report([folder], str(tmp_path / "b.html"))
  assert first == tmp_path / "a.html"
  assert first.read_bytes() == second.read_bytes()


def test_of_one_run_it_is_report_html_there(tmp_path, monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)
  monkeypatch.chdir(tmp_path)
  for name in ("run", "other"):
    made.run(tmp_path / name)
    written = qj.write_report(name)
    assert written.resolve() == tmp_path / name / "report.html"
  assert not (tmp_path / "report.html").exists()


def test_of_several_runs_it_is_report_html_here(tmp_path, monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)
  monkeypatch.chdir(tmp_path)
  for name in ("run", "other"):
    made.run(tmp_path / name)
  written = qj.write_report(["run", "other"])
  assert written.resolve() == tmp_path / "report.html"


def test_a_folder_that_is_not_there_is_what_the_error_names():
  with pytest.raises(ValueError, match="^workdirs='nosuch': must be the work"):
    qj.write_report("nosuch")


def test_a_name_that_is_no_unicode_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)
  folder = made.run(tmp_path / "\udcff")
  text = qj.write_report(folder, tmp_path / "a.html").read_text()
  assert "\ufffd</code>" in text


@pytest.mark.parametrize("output", ["none/a.html", "."])
def test_an_output_that_cannot_be_a_file_is_refused(tmp_path, output):
  folder = made.run(tmp_path / "run")
  with pytest.raises(ValueError, match="^output='.*': must be a file in a"):
    qj.write_report(folder, tmp_path / output)


def test_no_workdirs_are_refused():
  with pytest.raises(ValueError, match=r"^workdirs=\(\): must be at least one"):
    qj.write_report([])
