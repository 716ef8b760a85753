"""Pictures of partitions."""

import io
from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import SyntheticSource
from quped_jax.data.synthetic_federation import synthetic_federation
from quped_jax.experiment.figures.partition import class_counts

RNG = np.random.default_rng(0)


def make_federation(clients=5, classes=4, samples=200, kind="classes"):
  labels = np.arange(samples) % classes
  if kind == "values":
    labels = RNG.normal(size=samples)
  data = qj.from_arrays(RNG.normal(size=(samples, 2)), labels, targets=kind)
  return qj.make_federation(data, qj.partition(data, "iid", clients))


def heights(axes: Any) -> list[float]:
  """Of the bars."""
  return [bar.get_height() for bar in axes.patches]


def texts(figure):
  """All that is written on a figure, once it is drawn."""
  figure.savefig(io.BytesIO(), format="png", dpi=50)
  found = figure.get_suptitle().splitlines()
  for axes in figure.axes:
    found += [axes.get_xlabel(), axes.get_ylabel()]
    found += [x.get_text() for x in axes.get_yticklabels()]
  return found


def test_counts_are_those_of_each_client_and_class():
  labels = np.repeat([0, 1, 2], [10, 20, 30])
  data = qj.from_arrays(RNG.normal(size=(60, 2)), labels)
  parts = qj.partition(
    data, "dirichlet", 3, alpha=9.0, validation_fraction=0.3, min_size=6
  )
  federation = qj.make_federation(data, parts)
  for split in ("train", "validation", "test"):
    counts = class_counts(federation, split)
    for own, rows in zip(counts, getattr(parts, split), strict=True):
      assert own.tolist() == np.bincount(labels[rows], minlength=3).tolist()


def test_samples_that_are_drawn_are_counted_too():
  source = SyntheticSource(0, train_samples=30, classes_per_client=2)
  counts = class_counts(synthetic_federation(source, 4))
  assert (counts.sum(axis=1) == 30).all()
  assert (np.count_nonzero(counts, axis=1) <= 2).all()


def test_circles_have_areas_in_proportion_to_samples():
  federation = make_federation()
  figure = qj.plot_partition(federation)
  sizes, classes = figure.axes
  assert heights(sizes) == class_counts(federation).sum(axis=1).tolist()
  circles: Any = classes.collections[0]
  counts = class_counts(federation)
  client, label = np.nonzero(counts)
  np.testing.assert_array_equal(circles.get_offsets()[:, 0], client)
  np.testing.assert_array_equal(circles.get_offsets()[:, 1], label)
  area = circles.get_sizes()
  np.testing.assert_allclose(
    area / area.max(), counts[client, label] / counts.max()
  )
  assert figure.get_figwidth() < 3.6
  written = texts(figure)
  assert "arrays: training samples of 5 clients" in written
  assert "class" in written and "samples" in written
  assert f"area of a circle: samples, {counts.max()} in the largest" in written


def test_classes_have_their_names():
  names = ["cat", "dog", "a very long name of a class", "fly"]
  written = texts(qj.plot_partition(make_federation(), class_names=names))
  assert {"cat", "dog", "fly"} <= set(written)
  assert not [x for x in written if x.startswith("a very") and len(x) > 14]
  with pytest.raises(ValueError, match="^class_names: must be 4 names; got 1"):
    qj.plot_partition(make_federation(), class_names=["cat"])


def test_many_clients_have_a_histogram_and_fields():
  federation = make_federation(clients=100, samples=2000)
  figure = qj.plot_partition(federation, split="test")
  sizes, classes, bar = figure.axes
  assert sum(heights(sizes)) == 100
  (image,) = classes.images
  shares = np.asarray(image.get_array())
  assert shares.shape == (4, 100)
  np.testing.assert_allclose(shares.sum(axis=0), 1)
  assert "arrays: test samples of 100 clients" in texts(figure)
  assert bar.get_ylabel() == "share of the client's samples"


@pytest.mark.parametrize("clients", [4, 60])
def test_other_targets_have_sizes_alone(clients):
  federation = make_federation(clients, kind="values")
  (axes,) = qj.plot_partition(federation).axes
  expected = np.asarray(federation.train.count)
  assert sum(heights(axes)) == (expected.sum() if clients == 4 else clients)


def test_a_path_is_written_to_in_the_format_that_it_ends_in(tmp_path):
  federation = make_federation()
  qj.plot_partition(federation, tmp_path / "a.png")
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
  qj.plot_partition(federation, str(tmp_path / "a.svg"))
  assert b"<svg" in (tmp_path / "a.svg").read_bytes()
  with pytest.raises(ValueError, match=r"^path='.*a.doc': must end in one of"):
    qj.plot_partition(federation, tmp_path / "a.doc")
  with pytest.raises(ValueError, match="^split='all': must be one of train"):
    qj.plot_partition(federation, split="all")
