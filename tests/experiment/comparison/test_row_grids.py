"""The grids of a comparison's rows."""

import pytest

from quped_jax.experiment.comparison import row_grids
from tests.experiment.comparison import small


@pytest.fixture
def asked(monkeypatch):
  """What grids were asked for; none is run."""
  seen = []
  monkeypatch.setattr(
    row_grids, "grid", lambda *args, **how: seen.append((*args, how))
  )
  return seen


def make_config():
  config = small.make_config(bits="32; 1", seeds=(3, 5))
  config["overrides"] = {"quped_1": {"momentum": 0.25}}
  return config


def test_each_row_has_a_grid_around_its_own_settings(asked, tmp_path):
  found = row_grids.row_grids(make_config(), "quped", tmp_path)
  assert [row.name for row in found] == ["quped_32", "quped_1"]
  for (settings, over, seeds, folder, how), row in zip(
    asked, found, strict=True
  ):
    assert settings.method == "quped" and settings.bits == row.bits
    assert settings.momentum == (0.25 if row.bits == (1,) else 0.9)
    assert set(over) == {
      "learning_rate",
      "shared_learning_rate",
      "quped.lambda_p",
    }
    assert seeds == (3, 5)
    assert folder == tmp_path / "grid" / row.name
    assert how == {"quiet": False, "resume": True}


def test_some_settings_can_be_combined_alone(asked, tmp_path):
  row_grids.row_grids(
    make_config(),
    "quped:quped.lambda_p, learning_rate",
    tmp_path,
    restart=True,
    quiet=True,
  )
  assert list(asked[0][1]) == ["quped.lambda_p", "learning_rate"]
  assert asked[0][-1] == {"quiet": True, "resume": False}


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ("nope", "methods='nope': must be one of"),
    ("quped:nope", "grid='quped:nope': the setting='nope': must be one of lea"),
    ("fedbn", "tune.spaces.fedbn: must be given"),
  ],
)
def test_mistakes_are_named(given, message, asked, tmp_path):
  with pytest.raises(ValueError, match=message):
    row_grids.row_grids(make_config(), given, tmp_path)
  assert not asked
