"""Amounts, as people read them."""

import pytest

from quped_jax.experiment import amounts


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0 bytes"),
    (999, "999 bytes"),
    (1000, "1 KB"),
    (1234, "1.23 KB"),
    (999_499, "999 KB"),
    (999_600, "1 MB"),
    (35880, "35.9 KB"),
    (123456.0, "123 KB"),
    (2.5e6, "2.5 MB"),
    (7e15, "7,000 TB"),
    (None, ""),
  ],
)
def test_size(number, text):
  assert amounts.size(number) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.1234, "0.12 s"),
    (41.4, "41 s"),
    (59.6, "1 min 0 s"),
    (200, "3 min 20 s"),
    (7500, "2 h 5 min"),
    (None, ""),
  ],
)
def test_time(seconds, text):
  assert amounts.time(seconds) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.2, "0:01"), (67, "1:07"), (3600, "1:00:00"), (7387.5, "2:03:08")],
)
def test_clock(seconds, text):
  assert amounts.clock(seconds) == text


def test_counts_have_their_noun():
  assert amounts.count(1, "client") == "1 client"
  assert amounts.count(1200, "client") == "1,200 clients"


def test_plain_numbers():
  assert [amounts.plain(x) for x in (80, 80.0, 2.345)] == ["80", "80", "2.35"]


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0.06197, "0.0620"),
    (-0.5, "-0.500"),
    (1, "1.00"),
    (99.96, "100"),
    (345.6, "346"),
    (12345.6, "12,346"),
    (3e30, "3.00e+30"),
  ],
)
def test_measures_have_three_digits(number, text):
  assert amounts.measured(number) == text


def test_titles_begin_with_a_capital():
  assert amounts.capital("accuracy of R2") == "Accuracy of R2"
  assert amounts.capital("") == ""
