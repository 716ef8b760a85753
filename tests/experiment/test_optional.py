"""Packages that may not be installed."""

import subprocess
import sys

import pytest

from quped_jax.experiment import optional
from tests.experiment.comparison import small


@pytest.mark.slow
def test_importing_the_package_needs_neither():
  code = (
    "import sys, quped_jax; print({'matplotlib', 'pandas'} & {*sys.modules})"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "set()"


def test_without_them_an_error_says_what_to_install(monkeypatch):
  for name in ("matplotlib", "pandas"):
    monkeypatch.setitem(sys.modules, name, None)
  found = small.make_comparison()
  with pytest.raises(ImportError, match="need pandas: pip install pandas"):
    found.to_dataframe()
  with pytest.raises(ImportError, match=r"pip install 'quped_jax\[plot\]'"):
    found.plot()
  with pytest.raises(ImportError, match="figures need matplotlib"):
    optional.need_matplotlib()
