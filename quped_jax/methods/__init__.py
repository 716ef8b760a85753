"""Federated methods, by name.

To add one: write a file like `local.py`, and register it here or, from
outside the package, with `register_method`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from quped_jax.methods import api
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg
from quped_jax.methods.fedbn import FedbnOptions, make_fedbn
from quped_jax.methods.fedgkd import FedgkdOptions, make_fedgkd
from quped_jax.methods.fedgkd_vote import FedgkdVoteOptions, make_fedgkd_vote
from quped_jax.methods.fedntd import FedntdOptions, make_fedntd
from quped_jax.methods.fedprox import FedproxOptions, make_fedprox
from quped_jax.methods.fedrep import FedrepOptions, make_fedrep
from quped_jax.methods.local import LocalOptions, make_local
from quped_jax.methods.per_fedavg import PerFedavgOptions, make_per_fedavg
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
  "quped": Entry(make_quped, QupedOptions),
  "qupel": Entry(make_qupel, QupelOptions),
  "fedavg": Entry(make_fedavg, FedavgOptions),
  "fedprox": Entry(make_fedprox, FedproxOptions),
  "scaffold": Entry(make_scaffold, ScaffoldOptions),
  "per_fedavg": Entry(make_per_fedavg, PerFedavgOptions),
  "fedgkd": Entry(make_fedgkd, FedgkdOptions),
  "fedgkd_vote": Entry(make_fedgkd_vote, FedgkdVoteOptions),
  "fedntd": Entry(make_fedntd, FedntdOptions),
  "fedrep": Entry(make_fedrep, FedrepOptions),
  "fedbn": Entry(make_fedbn, FedbnOptions),
  "local": Entry(make_local, LocalOptions),
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
