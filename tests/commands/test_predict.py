"""`quped predict`: the packed model, on samples."""

import numpy as np
import pytest

from tests.commands.quped import in_process, mistake
from tests.experiments.test_predict import packed  # noqa: F401


def test_it_prints_a_line_for_each_sample(packed, tmp_path, capsys):  # noqa: F811
  model, samples = packed
  output = tmp_path / "logits.npy"
  code = in_process(
    "predict", f"--model={model}", f"--input={samples}", f"--output={output}"
  )
  assert code == 0
  assert capsys.readouterr().out.split() == ["2", "0", "1", "1"]
  assert np.load(output, allow_pickle=False).shape == (4, 3)


@pytest.mark.parametrize("name", ["model", "input"])
def test_a_file_that_is_not_there_is_a_mistake(
  name,
  packed,  # noqa: F811
  capsys,
):
  files = dict(zip(("model", "input"), map(str, packed), strict=True))
  files[name] = "nosuch"
  line = mistake(capsys, "predict", *(f"--{k}={v}" for k, v in files.items()))
  assert line.startswith(f"{name}='nosuch': must be a")
