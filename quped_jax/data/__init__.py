"""Datasets, and who holds which samples."""

from quped_jax.data.dataframe import from_dataframe
from quped_jax.data.dataset import Dataset, from_arrays, from_npy
from quped_jax.data.feature_skew import skew_features
from quped_jax.data.partition import Partition, draw_public, partition
from quped_jax.data.schemes import SCHEMES
from quped_jax.data.sources import (
  dataset_names,
  load_dataset,
  register_dataset,
)
from quped_jax.data.synthetic import SyntheticSource
from quped_jax.data.text import next_characters

__all__ = [
  "SCHEMES",
  "Dataset",
  "Partition",
  "SyntheticSource",
  "dataset_names",
  "draw_public",
  "from_arrays",
  "from_dataframe",
  "from_npy",
  "load_dataset",
  "next_characters",
  "partition",
  "register_dataset",
  "skew_features",
]
