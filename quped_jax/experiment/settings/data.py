"""Settings of the samples: which they are, and how clients come by them."""

from quped_jax import checks
from quped_jax.data import SCHEMES
from quped_jax.data.augment import AUGMENTATIONS
from quped_jax.data.feature_skew import SKEWS
from quped_jax.experiment.settings.fields import (
  Group,
  at_least,
  converted,
  group,
  one_of,
  setting,
)
from quped_jax.experiment.settings.values import path, whole_numbers


@group
class DataSettings(Group):
  """The samples of all clients, and those that are public."""

  dataset: str = setting(
    "digits",
    "name of a dataset, see `quped_jax.data.load_dataset`; or 'synthetic', "
    "Gaussian classes that are computed when a batch is drawn.",
  )
  data_dir: str = converted(
    default="",
    doc="where prepared datasets lie; '' for QUPED_DATA_DIR or the default of "
    "tensorflow-datasets.",
    free=True,
    converter=path,
  )
  synthetic_shape: tuple[int, ...] = converted(
    default=(64,),
    doc="shape of a sample of synthetic data.",
    converter=whole_numbers,
  )
  augment: str = setting(
    "none",
    "augmentation of training batches, 'none' or 'crop_flip'.",
    one_of(AUGMENTATIONS),
  )
  public_size: int = setting(
    0,
    "number of samples in the public set, which are held out from all clients; "
    "0 for no public set. Some methods need one.",
    at_least(0),
  )
  public_dataset: str = setting(
    "",
    "name of the dataset that the public set is drawn from, whose samples have "
    "the same shape; '' for `dataset` itself.",
  )
  public_labelled: bool = setting(
    True, "whether the labels of the public set are known."
  )

  def _check(self) -> None:
    if self.public_dataset and not self.public_size:
      raise ValueError(
        f"public_size=0: must be positive with public_dataset="
        f"{self.public_dataset!r}"
      )


@group
class PartitionSettings(Group):
  """How the samples are divided over the clients.

  The ranges of these numbers depend on the data, and are checked with it.
  """

  partition: str = setting(
    "pathological",
    "'iid', 'pathological', 'dirichlet', 'quantity', 'shards' or 'natural'.",
    one_of(sorted(SCHEMES)),
    data=True,
  )
  classes_per_client: int = setting(
    3,
    "number of classes that each client has samples of, of 'pathological' (and "
    "of synthetic data).",
    data=True,
  )
  alpha: float = setting(
    0.5,
    "concentration of 'dirichlet' and 'quantity': the smaller it is, the more "
    "clients differ.",
    data=True,
  )
  min_size: int = setting(
    10,
    "of 'dirichlet' and 'quantity', the fewest samples that a client may have.",
    data=True,
  )
  self_balancing: bool = setting(
    False,
    "whether 'dirichlet' keeps clients of similar sizes: one that has an equal "
    "part of all samples gets none of the classes that follow.",
    data=True,
    later=True,
  )
  shards_per_client: int = setting(
    2,
    "of 'shards', the number of shards that each client gets.",
    data=True,
  )
  groups_per_client: int = setting(
    3,
    "of 'natural', the number of groups, writers say, that each client gets.",
    data=True,
  )
  feature_skew: str = setting(
    "none",
    "how inputs differ from client to client: 'noise', Gaussian and of another "
    "strength for each; 'rotation', by quarter turns of images; or 'none'.",
    one_of(SKEWS),
    data=True,
    later=True,
  )
  feature_noise: float = setting(
    1.0,
    "of 'noise', the standard deviation for the noisiest client, where inputs "
    "have 1.",
    checks.positive,
    data=True,
    later=True,
  )
  train_fraction: float = setting(
    0.5,
    "share of each client's samples that it trains on, of a dataset that has "
    "no test split of its own.",
    data=True,
  )
  validation_fraction: float = setting(
    0.0,
    "share of each client's training samples that is held out.",
    data=True,
  )
