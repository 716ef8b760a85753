"""Rows are told apart over seeds, with several comparisons in mind."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.paper import found, page, significance
from experiments.paper.catalog import Part, Table
from experiments.paper.records import Key, Store
from quped_jax.experiment.comparison.plan import Row
from tests.experiments.paper import tables


def test_p_values_are_those_of_the_paired_t_test():
  first, second = np.random.default_rng(0).normal(size=(2, 5))
  expected: Any = stats.ttest_rel(first, second)
  found_p = significance.paired_p(first - second)
  assert found_p == pytest.approx(expected.pvalue)
  assert significance.paired_p(np.zeros(3)) == 1
  assert significance.paired_p(np.full(3, 0.5)) == 0


def test_holm_corrects_the_smallest_most_and_keeps_their_order():
  # 3 times 0.01; 2 times 0.02; 0.03, and not less than the one before.
  assert significance.holm([0.02, 0.03, 0.01]) == pytest.approx(
    [0.04, 0.04, 0.03]
  )
  assert significance.holm([0.6, 0.9]) == [1.0, 1.0]
  assert significance.holm([]) == []


def test_each_pair_is_compared_where_both_were_run(tmp_path):
  store = Store(tmp_path)
  for seed, gain in ((0, 0.1), (1, 0.2)):
    for bits in ((32,), (2,)):
      store.add(
        Key("", Row("quped", bits), seed), tables.record([0.5 + gain], types=())
      )
    store.add(
      Key("", Row("local", (32,)), seed), tables.record([0.5], types=())
    )
  table = tables.table(tests=(("quped", "local"),))
  (test,) = significance.tests([found.find(table, table.parts[0], store)])
  assert test.own == Row("quped", (32,)) and test.other == Row("local", (32,))
  assert test.differences == pytest.approx((0.1, 0.2))
  text = page.text(table, store)
  assert "\n| difference | bits | of each seed |" in text
  assert (
    "\n| Ours minus Local training | 32 | +10.0, +20.0 | "
    "+15.0 [-48.5, +78.5] | 0.2 |"
  ) in text


def test_comparisons_of_several_parts_say_which_they_are_of(tmp_path):
  store = Store(tmp_path)
  for part in ("one", "other"):
    for method, accuracy in (("quped", 0.6), ("local", 0.5)):
      store.add(
        Key(part, Row(method, (32,)), 0), tables.record([accuracy], types=())
      )
  config = {**tables.CONFIG, "tests": (("quped", "local"),)}
  table = Table(
    "test", "small", tuple(Part(name, config) for name in ("one", "other"))
  )
  text = page.text(table, store)
  assert "\n| part | difference | bits |" in text
  for part in ("one", "other"):
    assert (
      f"\n| {part} | Ours minus Local training | 32 | +10.0 | +10.0 |" in text
    )


def test_one_seed_has_no_p_value(tmp_path):
  store = Store(tmp_path)
  for method in ("quped", "local"):
    store.add(Key("", Row(method, (32,)), 0), tables.record([0.5], types=()))
  table = tables.table(tests=(("quped", "local"),))
  (test,) = significance.tests([found.find(table, table.parts[0], store)])
  assert test.p is None
