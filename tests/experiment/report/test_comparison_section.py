"""What a report says of a comparison."""

import re

from quped_jax.experiment.report import comparison_section
from tests.experiment.report import made


def parts(folder) -> dict[str, str]:
  return dict(comparison_section.sections(made.read_comparison(folder)))


def test_the_table_is_that_of_the_comparison(tmp_path):
  said = parts(made.comparison(tmp_path))["Table"]
  assert "2 of 2 runs that began are finished." in said
  titles = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', said)
  assert titles == [
    "method", "bits", "variant", "accuracy, %", "minus first row, %",
    "bytes per client and round",
  ]  # fmt: skip
  for words in ("96.8", "-16.8", "71,760", "&lt;script&gt;"):
    assert words in said
  assert "<script>" not in said and "sortable" in said


def test_what_is_not_finished_is_said(tmp_path):
  folder = made.comparison(tmp_path)
  (folder / "table.csv").unlink()
  (folder / "runs" / "local_1_seed0" / "summary.json").unlink()
  said = parts(folder)["Table"]
  assert "This comparison is not finished." in said
  assert "1 of 2 runs" in said and "Not finished: local_1_seed0." in said


def test_settings_that_all_runs_share_and_that_differ(tmp_path):
  said = parts(made.comparison(tmp_path))["Settings"]
  shared, _, differ = said.partition("<details>")
  assert "<code>clients</code>" in shared and "<code>method</code>" in differ
  assert "<code>method</code>" not in shared
  assert ">quped_1_seed0</th>" in differ


def test_figures_are_those_of_its_folder(tmp_path):
  folder = made.comparison(tmp_path)
  assert "no figures" in parts(folder)["Figures"]
  (folder / "accuracy_over_bytes.svg").write_text("<svg/>")
  said = parts(folder)["Figures"]
  assert 'alt="accuracy over bytes"' in said and "data:image/svg+xml" in said


def test_versions_are_those_of_its_runs(tmp_path):
  said = parts(made.comparison(tmp_path))["Reproduce"]
  assert "3.11.2" in said and "runs/NAME" in said
