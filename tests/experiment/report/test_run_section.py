"""What a report says of one run."""

import pytest

from quped_jax.experiment import optional
from quped_jax.experiment.report import drawings, run_section
from tests.experiment.report import made


@pytest.fixture
def no_figures(monkeypatch):
  """Figures take most of the time of a report."""
  monkeypatch.setattr(optional, "can_draw", lambda: False)


def parts(folder, **values) -> dict[str, str]:
  run = made.read(made.run(folder, **values))
  return dict(run_section.sections(run, drawings.Numbering()))


def test_the_summary_says_how_good_and_how_dear_it_was(tmp_path, no_figures):
  found = parts(tmp_path / "run", diverged=(2, 4))
  assert list(found) == [
    "Summary", "Model sizes", "Figures", "Clients", "Settings", "Reproduce"
  ]  # fmt: skip
  for words in (
    "<strong>90.0 %</strong> ± 5.0", "<strong>80.0 %</strong>",
    "8 KB down, 4 KB up", "0.12 s per round, 3 min 20 s in all",
    "2 of 6: 2, 4", "quantized model", "<dd>none</dd>",
  ):  # fmt: skip
    assert words in found["Summary"]


def test_privacy_is_said(tmp_path, no_figures):
  # Files have null for infinity.
  for epsilon, words in ((2.345, "epsilon 2.35 at delta"), (None, "infinite")):
    guarantee = {"epsilon": epsilon, "delta": 1e-5}
    found = parts(tmp_path / words, summary={"privacy": guarantee})
    assert words in found["Summary"]


def test_held_out_clients_and_the_best_round_have_rows(tmp_path, no_figures):
  spread = {"mean": 0.7, "std": 0.1, "worst": 0.6, "p10": 0.6, "best": 0.8}
  said = parts(
    tmp_path / "run",
    summary={
      "held_out_clients": {"personalized": spread},
      "best_round": 3,
      "accuracy_best_round": {"quantized": spread},
      "metrics": {"mae": {"quantized": {"pooled": 0.12345, "p90": 1}}},
    },
  )["Summary"]
  assert "personalized, held-out clients" in said
  assert "after round 3, chosen on validation data" in said
  for words in ("mae, quantized", ">0.123<", "90th percentile", ">1.00<"):
    assert words in said


def test_a_score_that_no_client_has_is_a_dash(tmp_path, no_figures):
  empty = {"quantized": {}, "global": {"mean": 0.5}}
  said = parts(tmp_path / "run", summary={"accuracy": empty})["Summary"]
  assert "<strong>\N{EN DASH}</strong>" in said


def test_an_unfinished_run_says_so(tmp_path, no_figures):
  found = parts(tmp_path / "run", finished=False)
  assert list(found) == ["Summary", "Figures", "Settings", "Reproduce"]
  assert "This run is not finished." in found["Summary"]
  assert "after round 4 of 4" in found["Summary"]
  assert "77.5 %" in found["Summary"]  # The last evaluation.


def test_model_sizes_by_type(tmp_path, no_figures):
  folder = tmp_path / "run"
  said = parts(folder)["Model sizes"]
  for words in ("mlp@32", "32 KB", "1 KB", "8 KB", "90.0 %"):
    assert words in said
  assert "packed model" not in said


def test_packed_models_are_counted(tmp_path, no_figures):
  folder = made.run(tmp_path / "run")
  (folder / "models").mkdir()
  for name in ("client_00000", "global"):
    (folder / "models" / f"{name}.safetensors").write_bytes(bytes(600))
  run = made.read(folder)
  said = dict(run_section.sections(run, drawings.Numbering()))["Model sizes"]
  assert "2 packed models, 1.2 KB in all" in said


def test_all_clients_are_in_the_table(tmp_path, no_figures):
  said = parts(tmp_path / "run", clients=7)["Clients"]
  assert said.count("<tr>") == 8 and "<details open>" in said
  assert 'class="sortable"' in said
  assert (
    "32,000" in said and "75.0" in said and "quantized, accuracy, %" in said
  )


def test_thousands_of_clients_are_folded_at_first(tmp_path, no_figures):
  said = parts(tmp_path / "run", clients=2000)["Clients"]
  assert "<details><summary>Table of 2,000 clients" in said
  assert said.count("<tr>") == 2001


def test_further_metrics_of_clients_have_few_digits(tmp_path, no_figures):
  folder = made.run(tmp_path / "run")
  (folder / "clients.csv").write_text(
    "client,bits,macro_f1/global,macro_f1/quantized\n0,1,0.7083333134,many\n"
  )
  run = made.read(folder)
  said = dict(run_section.sections(run, drawings.Numbering()))["Clients"]
  assert "macro f1, global" in said
  assert ">0.708<" in said and ">many<" in said


def test_what_a_client_lacks_is_a_dash_and_words_stay_text(
  tmp_path, no_figures
):
  folder = made.run(tmp_path / "run")
  (folder / "clients.csv").write_text(
    "client,bits,groups,quantized\n0,1,<script>,nan\n"
  )
  run = made.read(folder)
  said = dict(run_section.sections(run, drawings.Numbering()))["Clients"]
  assert "\N{EN DASH}</td>" in said and "<td>&lt;script&gt;</td>" in said
