"""What a type checker says of code that uses the library."""

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PYRIGHT = shutil.which(
  "pyright", path=str(pathlib.Path(sys.executable).parent)
)

needs_pyright = pytest.mark.skipif(
  _PYRIGHT is None, reason="pyright is not installed"
)


def complaints(text: str, folder: pathlib.Path) -> list[dict[str, Any]]:
  """What pyright says of a module, with lines counted from 0.

  Args:
    text: of the module.
    folder: where it may be written.
  """
  (folder / "usage.py").write_text(text)
  # Run from the checkout, where the library is found.
  done = subprocess.run(
    [
      str(_PYRIGHT),
      "--outputjson",
      "--pythonpath",
      sys.executable,
      str(folder / "usage.py"),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  return json.loads(done.stdout)["generalDiagnostics"]
