import pytest

from tests import tiny


@pytest.fixture(autouse=True)
def _quick_compilation():
  """Compiling is most of what these tests do, and none times a program."""
  with tiny.quick_compilation():
    yield
