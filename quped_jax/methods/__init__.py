"""Federated methods, by name.

To add one: write a file like `local.py`, and register it here or, from
outside the package, with `register_method`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from quped_jax.methods import api
from quped_jax.methods.apfl import ApflOptions, make_apfl
from quped_jax.methods.cfd import CfdOptions, make_cfd
from quped_jax.methods.ditto import DittoOptions, make_ditto
from quped_jax.methods.ds_fl import DsFlOptions, make_ds_fl
from quped_jax.methods.fd import FdOptions, make_fd
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg
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

__all__ = ["METHODS", "Entry", "api", "get_method", "register_method"]


class Entry(NamedTuple):
  """A registered method.

  Attributes:
    make: `(models, federation, training, options) -> FederatedMethod`.
    options: the frozen dataclass of the method's own settings.
  """

  make: Callable[..., api.FederatedMethod]
  options: type


METHODS: dict[str, Entry] = {
  "apfl": Entry(make_apfl, ApflOptions),
  "cfd": Entry(make_cfd, CfdOptions),
  "ditto": Entry(make_ditto, DittoOptions),
  "ds_fl": Entry(make_ds_fl, DsFlOptions),
  "fd": Entry(make_fd, FdOptions),
  "fedavg": Entry(make_fedavg, FedavgOptions),
  "fedbn": Entry(make_fedbn, FedbnOptions),
  "feddf": Entry(make_feddf, FeddfOptions),
  "fedgen": Entry(make_fedgen, FedgenOptions),
  "fedgkd": Entry(make_fedgkd, FedgkdOptions),
  "fedgkd_vote": Entry(make_fedgkd_vote, FedgkdVoteOptions),
  "fedgkt": Entry(make_fedgkt, FedgktOptions),
  "fedkd": Entry(make_fedkd, FedkdOptions),
  "fedmd": Entry(make_fedmd, FedmdOptions),
  "fedntd": Entry(make_fedntd, FedntdOptions),
  "fedprox": Entry(make_fedprox, FedproxOptions),
  "fedrep": Entry(make_fedrep, FedrepOptions),
  "fml": Entry(make_fml, FmlOptions),
  "local": Entry(make_local, LocalOptions),
  "per_fedavg": Entry(make_per_fedavg, PerFedavgOptions),
  "pfedme": Entry(make_pfedme, PfedmeOptions),
  "quped": Entry(make_quped, QupedOptions),
  "qupel": Entry(make_qupel, QupelOptions),
  "scaffold": Entry(make_scaffold, ScaffoldOptions),
}


def get_method(name: str) -> Entry:
  """The method of that name.

  Raises:
    ValueError: there is none.
  """
  if name not in METHODS:
    raise ValueError(
      f"method={name!r}: must be one of {', '.join(sorted(METHODS))}"
    )
  return METHODS[name]


def register_method(name: str, make: Callable[..., Any], options: type) -> None:
  """Adds a method, or replaces one.

  Args:
    name: by which settings choose it.
    make: `(models, federation, training, options) -> FederatedMethod`.
    options: a frozen dataclass; its fields become the settings
      `NAME.FIELD`.
  """
  METHODS[name] = Entry(make, options)
