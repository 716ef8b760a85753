"""The aims that the benchmark compares with."""

import pathlib
import re
from typing import Any

from experiments.benchmarks import (
  accelerator,
  aims,
)
from tests.experiments.measured import times

ROOT = pathlib.Path(__file__).parents[2]


def test_every_aim_follows_from_rows_that_there_are():
  keys = {each.key for each in accelerator.all_rows()}
  for aim in aims.AIMS:
    assert set(aim.rows) <= keys


def test_the_readme_has_every_aim_with_its_bound():
  text = (ROOT / "experiments/benchmarks/README.md").read_text()
  lines = aims.table({}, 0.0, "nvidia-h200", False)
  for line in lines:
    assert f"| {line['aim']} | {line['bound']} |" in text
  assert len(re.findall(r"^\| .* \| [<>]= ", text, re.MULTILINE)) == len(lines)


def test_aims_are_judged_on_their_own_devices_only():
  results: dict[str, Any] = {
    each.key: times(0.001, details={"copies_of_state": 1.5})
    for each in accelerator.all_rows()
  }
  results["whole steps: QuPeD 1 bit, float32"] = times(0.00027)

  def verdicts(device, quick=False):
    found = aims.table(results, 5.0, device, quick)
    return {line["aim"]: line["verdict"] for line in found}

  on_gpu = verdicts("nvidia-h200")
  assert on_gpu["QuPeD 1 bit, ms, float32"] == "met"
  assert on_gpu["QuPeD mixed, ms, float32"] == "not met"
  assert on_gpu["QuPeD mixed / 1 bit, float32"] == "not met"
  assert on_gpu["PyTorch loop / ours, CNN1, 8 clients"] == "not met"
  assert on_gpu["seconds to the first round of QuPeD mixed"] == "met"
  assert on_gpu["copies of 1000 clients' states"] == "met"
  assert on_gpu["QuPeD mixed / uniform 4 bits"] == "of cpu"
  other = verdicts("nvidia-h100")
  assert other["QuPeD 1 bit, ms, float32"] == "of h200"
  assert other["QuPeD mixed / 1 bit, float32"] == "not met"
  on_cpu = verdicts("cpu2")
  assert on_cpu["QuPeD mixed / uniform 4 bits"] == "met"
  assert on_cpu["QuPeD mixed / 1 bit, float32"] == "of a GPU"
  assert set(verdicts("nvidia-h200", quick=True).values()) == {"tiny sizes"}
  del results["memory: MLP, 1000 clients, auto"]
  assert verdicts("nvidia-h200")["copies of 1000 clients' states"] == (
    "not measured"
  )
