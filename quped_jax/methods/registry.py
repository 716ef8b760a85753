"""Federated methods by name.

To add one, write a file like `local.py` and register it here or, from outside
the package, with `register_method`.
"""

import inspect
from typing import Any, NamedTuple, Protocol

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods.apfl import ApflOptions, make_apfl
from quped_jax.methods.api import FederatedMethod, Models
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.cfd import CfdOptions, make_cfd
from quped_jax.methods.ditto import DittoOptions, make_ditto
from quped_jax.methods.ds_fl import DsFlOptions, make_ds_fl
from quped_jax.methods.fd import FdOptions, make_fd
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg
from quped_jax.methods.fedavg_ft import FedavgFtOptions, make_fedavg_ft
from quped_jax.methods.fedbn import FedbnOptions, make_fedbn
from quped_jax.methods.feddf import FeddfOptions, make_feddf
from quped_jax.methods.fedgen import FedgenOptions, make_fedgen
from quped_jax.methods.fedgkd import FedgkdOptions, make_fedgkd
from quped_jax.methods.fedgkd_vote import FedgkdVoteOptions, make_fedgkd_vote
from quped_jax.methods.fedgkt import FedgktOptions, make_fedgkt
from quped_jax.methods.fedkd import FedkdOptions, make_fedkd
from quped_jax.methods.fedmd import FedmdOptions, make_fedmd
from quped_jax.methods.fedntd import FedntdOptions, make_fedntd
from quped_jax.methods.fedprox import FedproxOptions, make_fedprox
from quped_jax.methods.fedrep import FedrepOptions, make_fedrep
from quped_jax.methods.fml import FmlOptions, make_fml
from quped_jax.methods.local import LocalOptions, make_local
from quped_jax.methods.per_fedavg import PerFedavgOptions, make_per_fedavg
from quped_jax.methods.pfedme import PfedmeOptions, make_pfedme
from quped_jax.methods.quped import QupedOptions, make_quped
from quped_jax.methods.qupel import QupelOptions, make_qupel
from quped_jax.methods.scaffold import ScaffoldOptions, make_scaffold


class Make(Protocol):
  """Makes a method from its own options."""

  def __call__(
    self, models: Models, training: Training, options: Any, /
  ) -> FederatedMethod:
    """Makes the method.

    Args:
      models: the network of each cohort, and the global one.
      training: how clients train.
      options: the method's own settings.

    Raises:
      ValueError: the arguments do not go together.
    """
    ...


class MakeForData(Protocol):
  """Makes a method that must know the data (the number of clients, say)."""

  def __call__(
    self,
    models: Models,
    training: Training,
    options: Any,
    /,
    federation: Federation,
  ) -> FederatedMethod:
    """Makes the method.

    Args:
      models: the network of each cohort, and the global one.
      training: how clients train.
      options: the method's own settings.
      federation: the data.

    Raises:
      ValueError: the arguments do not go together.
    """
    ...


class Entry(NamedTuple):
  """A registered method.

  Attributes:
    make: the function that makes it.
    options: the frozen dataclass of the method's own settings.
    takes_federation: whether `make` has an argument `federation`.
  """

  make: Make | MakeForData
  options: type
  takes_federation: bool

  def build(
    self,
    models: Models,
    training: Training,
    options: Any,
    federation: Federation | None,
  ) -> FederatedMethod:
    """Makes the method; `make` gets the federation if it takes one."""
    make: Any = self.make
    if self.takes_federation:
      return make(models, training, options, federation=federation)
    return make(models, training, options)


def _entry(make: Make | MakeForData, options: type) -> Entry:
  takes_federation = "federation" in inspect.signature(make).parameters
  return Entry(make, options, takes_federation)


METHODS: dict[str, Entry] = {
  "apfl": _entry(make_apfl, ApflOptions),
  "cfd": _entry(make_cfd, CfdOptions),
  "ditto": _entry(make_ditto, DittoOptions),
  "ds_fl": _entry(make_ds_fl, DsFlOptions),
  "fd": _entry(make_fd, FdOptions),
  "fedavg": _entry(make_fedavg, FedavgOptions),
  "fedavg_ft": _entry(make_fedavg_ft, FedavgFtOptions),
  "fedbn": _entry(make_fedbn, FedbnOptions),
  "feddf": _entry(make_feddf, FeddfOptions),
  "fedgen": _entry(make_fedgen, FedgenOptions),
  "fedgkd": _entry(make_fedgkd, FedgkdOptions),
  "fedgkd_vote": _entry(make_fedgkd_vote, FedgkdVoteOptions),
  "fedgkt": _entry(make_fedgkt, FedgktOptions),
  "fedkd": _entry(make_fedkd, FedkdOptions),
  "fedmd": _entry(make_fedmd, FedmdOptions),
  "fedntd": _entry(make_fedntd, FedntdOptions),
  "fedprox": _entry(make_fedprox, FedproxOptions),
  "fedrep": _entry(make_fedrep, FedrepOptions),
  "fml": _entry(make_fml, FmlOptions),
  "local": _entry(make_local, LocalOptions),
  "per_fedavg": _entry(make_per_fedavg, PerFedavgOptions),
  "pfedme": _entry(make_pfedme, PfedmeOptions),
  "quped": _entry(make_quped, QupedOptions),
  "qupel": _entry(make_qupel, QupelOptions),
  "scaffold": _entry(make_scaffold, ScaffoldOptions),
}


def get_method(name: str) -> Entry:
  """The method with that name.

  Raises:
    ValueError: there is no such method.
  """
  checks.choice("method", name, sorted(METHODS))
  return METHODS[name]


def register_method(name: str, make: Make | MakeForData, options: type) -> None:
  """Adds a method, or replaces one.

  Args:
    name: the name by which settings choose it.
    make: `(models, training, options) -> FederatedMethod`, see `Make`; if it
      has a further argument named `federation`, it gets the data too.
    options: a frozen dataclass; its fields become the settings
      `NAME.FIELD`.
  """
  METHODS[name] = _entry(make, options)
