"""What the commands print of results."""

from quped_jax.command_line import results

SPREAD = {"mean": 0.5, "worst": 0.25, "p10": 0.375, "std": 0.1, "best": 0.75}


def summary(**changes):
  return {
    "method": "quped",
    "dataset": "digits",
    "model": "mlp",
    "bits": [1, 32],
    "clients": 4,
    "rounds": 3,
    "primary_variant": "quantized",
    "accuracy": {"personalized": SPREAD, "quantized": SPREAD},
    "privacy": None,
    "client_types": {"mlp@1": {}},
    **changes,
  }


def test_a_summary_is_a_line_for_each_variant(capsys):
  results.print_summary(summary())
  assert capsys.readouterr().out.splitlines() == [
    "quped on digits, mlp, 1, 32 bits, 4 clients, round 3:",
    "  personalized  50.0 %  (worst client 25.0 %, 10th percentile 37.5 %)",
    "  quantized     50.0 %  (worst client 25.0 %, 10th percentile 37.5 %)",
  ]


def test_of_several_client_types_each_has_a_line(capsys):
  own = {"clients": 2, "model_bytes": 1500, "accuracy": {"quantized": SPREAD}}
  nobody = {**own, "accuracy": {"quantized": {}}}
  results.print_summary(
    summary(client_types={"mlp@1": own, "mlp@2": nobody, "mlp@32": own})
  )
  lines = capsys.readouterr().out.splitlines()[3:]
  assert lines[0] == "by client type, quantized:"
  assert [line.split()[0] for line in lines[1:]] == ["mlp@1", "mlp@32"]
  assert "2 clients" in lines[1] and "1.5 KB" in lines[1]


def test_a_private_run_says_its_guarantee(capsys):
  results.print_summary(summary(privacy={"epsilon": 2.5, "delta": 1e-5}))
  line = capsys.readouterr().out.splitlines()[-1]
  assert line == "private: epsilon 2.5 at delta 1e-05, by client"


def test_a_console_that_is_no_terminal_is_wide_enough_for_tables():
  assert results.make_console().width == 160
