"""First step of assembly, data: from settings to who holds which samples."""

import dataclasses

import jax
import numpy as np

from quped_jax import checks
from quped_jax import data as data_lib
from quped_jax.data.augment import check_augment
from quped_jax.data.federation import (
  Federation,
  PublicSet,
  make_federation,
  make_public,
)
from quped_jax.data.synthetic_federation import synthetic_federation
from quped_jax.experiment.settings import Settings


def build_federation(
  settings: Settings, dataset: data_lib.Dataset | None = None
) -> Federation:
  """Loads the data that the settings name and divides it over the clients.

  Args:
    settings: dataset, partition and number of clients.
    dataset: used instead of the one that the settings name, if given.

  Returns:
    The federation of all clients, held-out clients last.

  Raises:
    ValueError: an unknown dataset, or a partition that the data does not
      allow; the message names the field.
  """
  dataset = dataset or load(settings)
  if dataset is None:
    return _synthetic(settings)
  public, held_out = _public_set(settings, dataset)
  parts = data_lib.partition(
    dataset,
    settings.partition,
    settings.clients + settings.held_out_clients,
    seed=settings.seed,
    classes_per_client=settings.classes_per_client,
    alpha=settings.alpha,
    min_size=settings.min_size,
    self_balancing=settings.self_balancing,
    shards_per_client=settings.shards_per_client,
    groups_per_client=settings.groups_per_client,
    train_fraction=settings.train_fraction,
    validation_fraction=settings.validation_fraction,
    exclude=held_out,
  )
  dataset = data_lib.skew_features(
    dataset,
    parts,
    settings.feature_skew,
    noise=settings.feature_noise,
    seed=settings.seed,
  )
  federation = make_federation(dataset, parts, augment=settings.augment)
  return dataclasses.replace(federation, public=public)


def load(settings: Settings) -> data_lib.Dataset | None:
  """Loads the dataset that the settings name; None for synthetic data.

  Raises:
    ValueError: an unknown dataset.
  """
  if settings.dataset == "synthetic":
    return None
  checks.choice(
    "dataset", settings.dataset, (*data_lib.dataset_names(), "synthetic")
  )
  return data_lib.load_dataset(
    settings.dataset,
    settings.data_dir or None,
    # Of several processes, each needs the samples of its own clients only.
    mapped=jax.process_count() > 1,
  )


def check_clients(settings: Settings, federation: Federation) -> None:
  """Raises a ValueError unless a given federation has as many clients."""
  everyone = settings.clients + settings.held_out_clients
  if federation.num_clients == everyone:
    return
  must = federation.num_clients - settings.held_out_clients
  why = "as many as the given federation has"
  if settings.held_out_clients:
    why = (
      f"so that with held_out_clients={settings.held_out_clients} they are as "
      "many as the given federation's"
    )
  raise ValueError(f"clients={settings.clients}: must be {must}, {why}")


def _synthetic(settings: Settings) -> Federation:
  source = data_lib.SyntheticSource(
    settings.seed,
    shape=settings.synthetic_shape,
    classes_per_client=settings.classes_per_client,
  )
  check_augment(settings.augment, source.shape)
  if settings.public_size:
    raise ValueError(
      f"public_size={settings.public_size}: must be 0 with "
      "dataset='synthetic', whose samples belong to clients"
    )
  if settings.feature_skew != "none":
    raise ValueError(
      f"feature_skew={settings.feature_skew!r}: must be 'none' with "
      "dataset='synthetic', whose samples are not stored"
    )
  return synthetic_federation(
    source,
    settings.clients + settings.held_out_clients,
    validation_fraction=settings.validation_fraction,
  )


def _public_set(
  settings: Settings, dataset: data_lib.Dataset
) -> tuple[PublicSet | None, np.ndarray | None]:
  """The public set, and the rows of the dataset that are held out for it."""
  if not settings.public_size:
    return None, None
  source = dataset
  if settings.public_dataset:
    source = _public_source(settings, dataset)
  rows = data_lib.draw_public(source, settings.public_size, seed=settings.seed)
  public = make_public(source, rows, labelled=settings.public_labelled)
  own = settings.public_dataset in ("", settings.dataset)
  return public, rows if own else None


def _public_source(
  settings: Settings, dataset: data_lib.Dataset
) -> data_lib.Dataset:
  """The dataset that the public set is drawn from, which fits the clients'."""
  checks.choice(
    "public_dataset", settings.public_dataset, tuple(data_lib.dataset_names())
  )
  source = data_lib.load_dataset(
    settings.public_dataset, settings.data_dir or None
  )
  shapes = source.inputs.shape[1:], dataset.inputs.shape[1:]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"public_dataset={source.name!r}: must have samples of shape "
      f"{shapes[1]}, as {dataset.name!r} has; got {shapes[0]}"
    )
  if source.targets != dataset.targets:
    raise ValueError(
      f"public_dataset={source.name!r}: must have targets that are "
      f"{dataset.targets!r}, as {dataset.name!r} has; got {source.targets!r}"
    )
  if settings.public_labelled and source.num_classes > dataset.num_classes:
    raise ValueError(
      f"public_labelled=True: must be False with public_dataset="
      f"{source.name!r} of {source.num_classes} classes, more than the "
      f"{dataset.num_classes} of {dataset.name!r}"
    )
  return source
