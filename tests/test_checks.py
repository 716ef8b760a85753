import pytest

from quped_jax import checks


@pytest.mark.parametrize(
  ("check", "good", "bad"),
  [
    (checks.unit_interval, (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
    (checks.positive, (1e-9, 5), (0, -1, float("inf"), float("nan"))),
    (checks.not_negative, (0, 5), (-1e-9, float("inf"), float("nan"))),
  ],
)
def test_ranges_name_field_and_value(check, good, bad):
  for value in good:
    check("some.field", value)
  for value in bad:
    with pytest.raises(ValueError, match=f"some.field={value}: must be"):
      check("some.field", value)
