import pytest

from tests import tiny


@pytest.fixture(autouse=True)
def _quick_compilation():
  """Compiling takes most of these tests' time, and none times a program."""
  with tiny.quick_compilation():
    yield
