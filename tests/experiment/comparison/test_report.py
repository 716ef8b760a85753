"""A whole comparison: runs, table and figures."""

import pytest

import quped_jax as qj
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison import report
from tests.experiment.comparison import small


@pytest.mark.slow
def test_a_run_that_cannot_be_is_found_before_any_is_started(tmp_path):
  # The settings alone are valid, but the dataset has too few samples.
  config = small.make_config(base={"clients": 5000})
  start = small.Stub()
  with pytest.raises(ValueError, match="clients"):
    report.compare(config, tmp_path, start, small.quiet_console())
  config = small.make_config(
    overrides={"fedavg": {"method": "fedavg", "shared_model": "cnn1"}}
  )
  with pytest.raises(ValueError, match="fedavg_32: .*averages weights"):
    report.compare(config, tmp_path, start, small.quiet_console())
  assert not start.folders


@pytest.mark.slow
def test_size_is_of_the_variant_and_of_the_clients_in_turn():
  def size(method, bits):
    settings = qj.Settings(
      method=method, clients=5, hidden=(9, 7), bits=bits, public_size=20
    )
    federation = build_federation(settings)
    return report.client_model_bytes(settings, federation)

  full = size("fedavg", (32,))
  saved = 3 / 5 * (4 * 63 - 8 - 8)
  assert full - size("quped", (1, 32)) == pytest.approx(saved)
  # The server's network, 7 -> 256 -> 256 -> 10, goes with the client's.
  server = 7 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10
  assert size("fedgkt", (32,)) == full + 4 * server


@pytest.mark.slow
def test_stubbed_comparison_writes_everything(tmp_path):
  console = small.quiet_console()
  config = small.make_config(bits="32; 1", seeds=(0, 1))
  found = report.compare(config, tmp_path, small.Stub(), console)
  records = found.rows
  assert [(r["method"], r["bits"]) for r in records] == [
    ("local", "32"),
    ("local", "1"),
    ("fedavg", "32"),
    ("fedavg", "1"),
  ]
  assert records[2]["difference_mean"] == pytest.approx(0.1)
  assert records[1]["difference_mean"] == 0.0
  assert records[0]["held_out_clients"] is None
  assert records[1]["model_bytes"] < records[0]["model_bytes"]
  said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
  for name in (
    "table",
    "accuracy_over_rounds",
    "accuracy_over_bytes",
    "accuracy_of_clients",
  ):
    kinds = "csv md tex" if name == "table" else "png svg pdf"
    first, *others = kinds.split()
    assert f"{tmp_path / name}.{first}, .{', .'.join(others)}" in said
    assert all(
      (tmp_path / f"{name}.{kind}").is_file() for kind in (first, *others)
    )
  # The data of a seed is that of all its runs, and of no other seed.
  assert found.test_samples.keys() == {0, 1} and not found.same_clients
  assert [x.size for x in found.test_samples.values()] == [6, 6]
  assert found.folder == tmp_path
