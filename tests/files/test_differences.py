"""What differs between two identities, in words."""

import pytest

from quped_jax.files.differences import differences, refusal

RUN = {"seed": 0, "method": "quped", "quped": {"share": 0.5}, "data": "hash 1"}


def test_nothing_differs_of_equals():
  assert differences(RUN, {**RUN}) == []
  assert differences({}, {}) == []


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({"seed": 1}, ["seed is 0 there and 1 here"]),
    # JSON tells these apart, and Python does not.
    ({"seed": False}, ["seed is 0 there and False here"]),
    ({"quped": {"share": 1}}, ["quped.share is 0.5 there and 1 here"]),
    ({"data": "hash 2"}, ["data is not the same"]),
    ({"data": None}, ["data is given there and not given here"]),
    ({"more": 1}, ["more is not known there and 1 here"]),
    (
      {"quped": {"share": 0.5, "more": 1}},
      ["quped.more is not known there and 1 here"],
    ),
  ],
)
def test_what_differs_is_named_with_both_values(change, expected):
  assert differences(RUN, {**RUN, **change}) == expected


def test_of_another_method_the_options_are_left_out():
  other = {"seed": 0, "method": "local", "local": {"x": 1}, "data": "hash 1"}
  expected = ["method is 'quped' there and 'local' here"]
  assert differences(RUN, other) == expected


def test_no_difference_is_left_out_if_it_is_the_only_one():
  less = {name: value for name, value in RUN.items() if name != "quped"}
  assert differences(less, RUN) == [
    "quped.share is not known there and 0.5 here"
  ]
  assert differences(RUN, less) == [
    "quped.share is 0.5 there and not known here"
  ]
  assert differences({}, {"seed": 0}) == ["seed is not known there and 0 here"]
  # Nor a method without options.
  assert differences({"quped": {}}, {}) == []


def test_a_refusal_names_the_folder_and_the_way_out(tmp_path):
  error = refusal(tmp_path, "results", ["seed is 0 there and 1 here"])
  assert str(error) == (
    f"workdir={str(tmp_path)!r}: must be another folder, or be started anew "
    "(--restart, resume=False), since it has results of another run: seed is 0 "
    "there and 1 here"
  )
