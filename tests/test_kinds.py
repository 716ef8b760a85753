"""Values are of the kind that they must be, and are taken for no others."""

import math

import pytest

from quped_jax import kinds

NAN, INF, HUGE = math.nan, math.inf, 10**400
CHECKS = {
  "whole": (kinds.whole(1, 9), [1, 9], [0, 10, 1.0, True, "1", None, HUGE]),
  "number": (
    kinds.number(0, 1),
    [0, 1, 0.5, 1.0],
    [-0.1, 1.1, True, "0.5", NAN, None, HUGE],
  ),
  "any number": (
    kinds.number(),
    [-1e300, 3, 2**53],
    [2**53 + 1, NAN, INF, -INF, HUGE, False],
  ),
  "nan": (kinds.number(0, nan=True), [NAN, INF, 1], [-1, True, "nan"]),
  "text": (kinds.text, ["", "ä"], [1, None, b"x", "\ud800", "a\0"]),
  "boolean": (kinds.boolean, [True, False], [1, 0, "true", None]),
  "choice": (kinds.choice(1, "a"), [1, "a"], [True, 1.0, "1", None, []]),
  "optional": (kinds.optional(kinds.whole()), [None, 1], [1.5, "", False]),
  "entries": (kinds.entries(kinds.whole()), [[], [1, 2]], [[1.0], {}, "12"]),
  "row": (kinds.row(kinds.text, kinds.whole()), [["a", 1]], [["a"], [1, "a"]]),
  "table": (kinds.table(kinds.whole()), [{}, {"a": 1}], [{"a": "1"}, [], ""]),
  "record": (
    kinds.record({"a": kinds.whole()}),
    [{"a": 1}, {"a": 1, "b": None}],
    [{}, {"b": 1}, {"a": 1.0}, [], None],
  ),
  "no others": (
    kinds.record({"a": kinds.whole()}, others=False, missing=("a",)),
    [{}, {"a": 1}],
    [{"a": 1, "b": 1}, {"a": None}],
  ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_fits_is_returned_and_nothing_else(name):
  check, right, wrong = CHECKS[name]
  for value in right:
    assert check("field", value) is value or check("field", value) == value
  for value in wrong:
    with pytest.raises(ValueError, match=r"^field[\w\[\].]*(=.*)?: must "):
      check("field", value)


def test_errors_say_where_in_a_value_they_are():
  check = kinds.record(
    {"runs": kinds.entries(kinds.table(kinds.row(kinds.whole(0, 5))))}
  )
  with pytest.raises(ValueError, match=r"^runs\[1\].b\[0\]=6: must be a whole"):
    check("", {"runs": [{}, {"a": [1], "b": [6]}]})
  with pytest.raises(ValueError, match="^runs: must be given$"):
    check("", {})
  with pytest.raises(ValueError, match="at least 0, at most 1$"):
    kinds.number(0, 1)("x", 2)


@pytest.mark.parametrize(
  "text",
  ["1.0", "", "1_0", "-1", "+1", "\u0661", "1e1", "10", "9" * 5000, "\t1"],
)
def test_only_digits_are_a_whole_number(text):
  assert kinds.whole_text("x", "07 ", 0, 9) == 7
  with pytest.raises(ValueError, match="^x='.*': must be a whole number from"):
    kinds.whole_text("x", text, 0, 9)


@pytest.mark.parametrize(
  "text",
  ["", "1_0", "inf", "NaN", "1e999", "1.5", "-0.1", "0x1", "\u0661", " 1"],
)
def test_only_digits_or_nan_are_a_number(text):
  found = [kinds.number_text("x", t, 0, 1) for t in ("1", "0.25", "1e-3", "0.")]
  assert found == [1, 0.25, 0.001, 0] and math.isnan(
    kinds.number_text("x", "nan", 0, 1)
  )
  with pytest.raises(ValueError, match="^x='.*': must be a number from 0 to 1"):
    kinds.number_text("x", text, 0, 1)
