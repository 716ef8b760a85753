"""`quped report`: a page of HTML."""

import pytest

from quped_jax.experiment import optional
from tests import html_page
from tests.commands.quped import in_process, mistake
from tests.experiment.report import made


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
  monkeypatch.setattr(optional, "can_draw", lambda: False)


def test_a_report_on_two_runs(tmp_path, capsys):
  folders = [str(made.run(tmp_path / name)) for name in ("first", "second")]
  output = tmp_path / "page.html"
  assert in_process("report", *folders, f"--output={output}") == 0
  assert capsys.readouterr().out == f"The report is in {output}\n"
  root = html_page.parse(output.read_text())
  assert root.one("h1").text == "2 runs"


def test_mistakes_are_one_line(tmp_path, capsys):
  said = mistake(capsys, "report", str(tmp_path))
  assert said.startswith(f"workdirs='{tmp_path}': must be the work directory")
  assert "WORKDIR" in mistake(capsys, "report")
