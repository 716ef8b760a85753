"""Figures show what was kept."""

import pytest

from experiments.paper import figures
from experiments.paper.catalog import Part, Table
from experiments.paper.records import Key, Store
from quped_jax.experiment.comparison.plan import Row
from tests.experiments.paper import tables

OURS, LOCAL = Row("quped", (32,)), Row("local", (32,))
SPREAD = [0.9, 0.8, 0.7, 0.6]


def texts(figure):
  (axes,) = figure.axes
  return [text.get_text() for text in axes.texts]


def labels(figure):
  (axes,) = figure.axes
  return [text.get_text() for text in axes.get_yticklabels()]


def test_differences_are_below_the_row_that_they_are_from(tmp_path):
  store = Store(tmp_path)
  for seed in (0, 1):
    store.add(Key("", OURS, seed), tables.record([0.9] * 4))
    store.add(Key("", LOCAL, seed), tables.record(SPREAD))
  (name, figure), *others = figures.draw(tables.table(), store).items()
  assert (name, others) == ("differences", [])
  assert labels(figure) == ["Ours, 32 bits:", "Local training"]
  (dot,) = (x for x in figure.axes[0].lines if x.get_marker() == "o")
  assert dot.get_xdata() == pytest.approx([-15])
  assert "95 % intervals" in figure.get_suptitle()


def test_all_words_are_inside_however_long_the_names(tmp_path):
  store = Store(tmp_path)
  for seed in (0, 1):
    store.add(Key("", OURS, seed), tables.record([0.9] * 4))
    store.add(Key("", LOCAL, seed), tables.record(SPREAD))
  long = "FedAvg with fine-tuning, four times the rounds"
  table = tables.table(titles={"quped": "Ours", "local": long})
  (figure,) = figures.draw(table, store).values()
  figure.draw_without_rendering()
  axes = figure.axes[0]
  for text in (*axes.get_yticklabels(), axes.xaxis.label):
    place = text.get_window_extent()
    assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= place.y0 and place.y1 <= figure.bbox.y1


def test_nothing_is_drawn_of_nothing(tmp_path):
  assert figures.draw(tables.table(), Store(tmp_path)) == {}
  assert figures.draw(tables.table(figure="map"), Store(tmp_path)) == {}


def test_a_map_says_who_is_best_where(tmp_path):
  store = Store(tmp_path)
  parts = [
    Part(
      f"{n} samples",
      {**tables.CONFIG, "figure": "map", "place": {"samples": n, "classes": 2}},
    )
    for n in (20, 5)
  ]
  for part, better in zip(parts, (OURS, LOCAL), strict=True):
    for row in (OURS, LOCAL):
      found = tables.record([0.9 if row == better else 0.8] * 4)
      for seed in (0, 1):
        store.add(Key(part.name, row, seed), found)
  drawn = figures.draw(Table("test", "small", tuple(parts)), store)
  assert texts(drawn["map"]) == [
    "Ours 90.0\nLocal training 80.0",
    "Local training 90.0\nOurs 80.0",
  ]
  (axes,) = drawn["map"].axes
  assert [t.get_text() for t in axes.get_xticklabels()] == ["5", "20"]


def test_bytes_are_those_of_the_comparison(tmp_path):
  store = Store(tmp_path)
  store.add(Key("", OURS, 0), tables.record(SPREAD))
  drawn = figures.draw(tables.table(figure="bytes"), store)
  assert list(drawn) == ["accuracy_over_bytes"]


def test_a_figure_that_there_is_not_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="figure='x': must be one of differ"):
    figures.draw(tables.table(figure="x"), Store(tmp_path))
