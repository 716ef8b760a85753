import pytest

import quped_jax as qj
from tests.files.packed_files import INFOS, variables_of


@pytest.fixture(scope="session")
def files(tmp_path_factory):
  """[(a good file's bytes, what it holds)], and a path for bad ones."""
  path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
  good = []
  for info in INFOS:
    if info.bits in (5, 8):
      continue
    qj.save_packed(path, *variables_of(info), info, mean=0.5, std=0.25)
    good.append((path.read_bytes(), qj.load_packed(path)))
  return good, path
