import numpy as np
import pytest

from quped_jax.data import load_dataset, text


def test_characters_are_numbers():
  codes = text.encode("A~ \n\té")
  newline, other = text.VOCABULARY - 2, text.VOCABULARY - 1
  assert codes.tolist() == [33, 94, 0, newline, other, other]


def decode(codes):
  return "".join(chr(c + 32) for c in codes)


def test_a_sample_is_a_context_and_what_follows():
  texts = {"b": "abcdefghijklmnopqrst", "a": "0123456789"}
  data = text.next_characters(
    texts, context=3, stride=2, test_fraction=0.5, name="letters"
  )
  assert data.groups is not None and data.is_test is not None
  assert data.group_names == ("a", "b")
  shown = {
    (int(g), bool(t)): [
      decode(np.append(x, y))
      for x, y, h, u in zip(
        data.inputs, data.labels, data.groups, data.is_test, strict=True
      )
      if (h, u) == (g, t)
    ]
    for g in (0, 1)
    for t in (False, True)
  }
  assert shown == {
    (0, False): ["0123"],
    (0, True): ["5678"],
    (1, False): ["abcd", "cdef", "efgh", "ghij"],
    (1, True): ["klmn", "mnop", "opqr", "qrst"],
  }


def test_what_is_too_short_is_left_out():
  texts = {"long": "x" * 20, "short": "y" * 5}
  data = text.next_characters(texts, context=4, stride=1, test_fraction=0.5)
  assert data.groups is not None and set(data.groups) == {0}
  assert data.group_names == ("long",)
  assert set(data.labels) == {ord("x") - 32}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"context": 0}, "context=0"),
    ({"stride": 0}, "stride=0"),
    ({"test_fraction": 1.0}, "test_fraction=1.0: must be in"),
    ({"context": 30}, "more than 30 characters.*got 1 of at most 20"),
  ],
)
def test_what_cannot_be_is_an_error(changes, message):
  with pytest.raises(ValueError, match=message):
    text.next_characters({"a": "x" * 20}, **changes)


def test_the_package_is_a_text_by_file():
  texts = text.own_source()
  assert "def own_source" in texts["data/text.py"]
  data = load_dataset("own_source")
  assert data.inputs.shape[1] == 32 and data.inputs.dtype == np.uint8
  assert data.num_classes == text.VOCABULARY
  assert data.groups is not None and data.groups.max() > 50
  assert data.is_test is not None and 0.15 < data.is_test.mean() < 0.25
