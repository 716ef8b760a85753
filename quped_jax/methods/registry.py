"""Federated methods by name.

To add one, write a file like `local.py` and register it here or, from outside
the package, with `register_method`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any, NamedTuple, Protocol

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods.apfl import ApflOptions, make_apfl
from quped_jax.methods.api import FederatedMethod, Models
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.cfd import CfdOptions, make_cfd
from quped_jax.methods.code import code_hash, package_of
from quped_jax.methods.cronus import CronusOptions, make_cronus
from quped_jax.methods.ditto import DittoOptions, make_ditto
from quped_jax.methods.ds_fl import DsFlOptions, make_ds_fl
from quped_jax.methods.fd import FdOptions, make_fd
from quped_jax.methods.fedala import FedalaOptions, make_fedala
from quped_jax.methods.fedaux import FedauxOptions, make_fedaux
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg
from quped_jax.methods.fedavg_ft import FedavgFtOptions, make_fedavg_ft
from quped_jax.methods.fedbabu import FedbabuOptions, make_fedbabu
from quped_jax.methods.fedbe import FedbeOptions, make_fedbe
from quped_jax.methods.fedbn import FedbnOptions, make_fedbn
from quped_jax.methods.fedcad import FedcadOptions, make_fedcad
from quped_jax.methods.feddbe import FeddbeOptions, make_feddbe
from quped_jax.methods.feddf import FeddfOptions, make_feddf
from quped_jax.methods.feddyn import FeddynOptions, make_feddyn
from quped_jax.methods.fedftg import FedftgOptions, make_fedftg
from quped_jax.methods.fedgen import FedgenOptions, make_fedgen
from quped_jax.methods.fedgkd import FedgkdOptions, make_fedgkd
from quped_jax.methods.fedgkd_vote import FedgkdVoteOptions, make_fedgkd_vote
from quped_jax.methods.fedgkt import FedgktOptions, make_fedgkt
from quped_jax.methods.fedkd import FedkdOptions, make_fedkd
from quped_jax.methods.fedmd import FedmdOptions, make_fedmd
from quped_jax.methods.fedmlb import FedmlbOptions, make_fedmlb
from quped_jax.methods.fedntd import FedntdOptions, make_fedntd
from quped_jax.methods.fedper import FedperOptions, make_fedper
from quped_jax.methods.fedproto import FedprotoOptions, make_fedproto
from quped_jax.methods.fedprox import FedproxOptions, make_fedprox
from quped_jax.methods.fedprox_ft import FedproxFtOptions, make_fedprox_ft
from quped_jax.methods.fedrep import FedrepOptions, make_fedrep
from quped_jax.methods.fedrod import FedrodOptions, make_fedrod
from quped_jax.methods.fedssd import FedssdOptions, make_fedssd
from quped_jax.methods.fedtgp import FedtgpOptions, make_fedtgp
from quped_jax.methods.fedzkt import FedzktOptions, make_fedzkt
from quped_jax.methods.fml import FmlOptions, make_fml
from quped_jax.methods.lg_fedavg import LgFedavgOptions, make_lg_fedavg
from quped_jax.methods.local import LocalOptions, make_local
from quped_jax.methods.moon import MoonOptions, make_moon
from quped_jax.methods.per_fedavg import PerFedavgOptions, make_per_fedavg
from quped_jax.methods.pfedme import PfedmeOptions, make_pfedme
from quped_jax.methods.quped import QupedOptions, make_quped
from quped_jax.methods.qupel import QupelOptions, make_qupel
from quped_jax.methods.scaffold import ScaffoldOptions, make_scaffold
from quped_jax.methods.scaffold_ft import ScaffoldFtOptions, make_scaffold_ft


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
    version: raised whenever a change of the code changes results; None if the
      method declares none.
    shares: whether what `make` takes of a federation is the same for all of the
      same shape, so that they may go through the same program.
  """

  make: Make | MakeForData
  options: type
  takes_federation: bool
  version: int | None
  shares: bool = False

  def behaviour(self) -> str:
    """What stands for the method's code: its version, or a hash of the code.

    A version that an author declares is not one of a built-in method of the
    same name. A method may wrap a built-in one, so to its hash the versions of
    all of those belong.
    """
    if self in BUILT_IN.values():
      return f"version {self.version}"
    made = getattr(self.make, "__qualname__", type(self.make).__qualname__)
    where = f"{self.make.__module__}.{made}"
    if self.version is not None:
      return f"version {self.version} of {where}"
    versions = {name: entry.version for name, entry in BUILT_IN.items()}
    own = {package_of(self.make), package_of(self.options)}
    own -= sys.stdlib_module_names
    found = code_hash(self.make, self.options, versions, own=own)
    return f"hash {found} of {where}"

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


def _entry(
  make: Make | MakeForData,
  options: type,
  version: int | None,
  *,
  shares: bool = False,
) -> Entry:
  takes_federation = "federation" in inspect.signature(make).parameters
  return Entry(make, options, takes_federation, version, shares)


# A version is raised whenever a change of the code changes a method's results:
# finished runs and checkpoints are those of one version.
# FedGKT's server keeps a table with room for the samples of the largest client.
METHODS: dict[str, Entry] = {
  "apfl": _entry(make_apfl, ApflOptions, version=1),
  "cfd": _entry(make_cfd, CfdOptions, version=1, shares=True),
  "cronus": _entry(make_cronus, CronusOptions, version=1, shares=True),
  "ditto": _entry(make_ditto, DittoOptions, version=1),
  "ds_fl": _entry(make_ds_fl, DsFlOptions, version=1, shares=True),
  "fd": _entry(make_fd, FdOptions, version=1),
  "fedala": _entry(make_fedala, FedalaOptions, version=1),
  "fedaux": _entry(make_fedaux, FedauxOptions, version=1, shares=True),
  "fedavg": _entry(make_fedavg, FedavgOptions, version=1),
  "fedavg_ft": _entry(make_fedavg_ft, FedavgFtOptions, version=1),
  "fedbabu": _entry(make_fedbabu, FedbabuOptions, version=1),
  "fedbe": _entry(make_fedbe, FedbeOptions, version=1, shares=True),
  "fedbn": _entry(make_fedbn, FedbnOptions, version=1),
  "fedcad": _entry(make_fedcad, FedcadOptions, version=1, shares=True),
  "feddbe": _entry(make_feddbe, FeddbeOptions, version=1, shares=True),
  "feddf": _entry(make_feddf, FeddfOptions, version=1, shares=True),
  "feddyn": _entry(make_feddyn, FeddynOptions, version=1, shares=True),
  "fedftg": _entry(make_fedftg, FedftgOptions, version=1, shares=True),
  "fedgen": _entry(make_fedgen, FedgenOptions, version=1, shares=True),
  "fedgkd": _entry(make_fedgkd, FedgkdOptions, version=1),
  "fedgkd_vote": _entry(make_fedgkd_vote, FedgkdVoteOptions, version=1),
  "fedgkt": _entry(make_fedgkt, FedgktOptions, version=1),
  "fedkd": _entry(make_fedkd, FedkdOptions, version=1),
  "fedmd": _entry(make_fedmd, FedmdOptions, version=1, shares=True),
  "fedmlb": _entry(make_fedmlb, FedmlbOptions, version=1),
  "fedntd": _entry(make_fedntd, FedntdOptions, version=1),
  "fedper": _entry(make_fedper, FedperOptions, version=1),
  "fedproto": _entry(make_fedproto, FedprotoOptions, version=1, shares=True),
  "fedprox": _entry(make_fedprox, FedproxOptions, version=1),
  "fedprox_ft": _entry(make_fedprox_ft, FedproxFtOptions, version=1),
  "fedrep": _entry(make_fedrep, FedrepOptions, version=1),
  "fedrod": _entry(make_fedrod, FedrodOptions, version=1, shares=True),
  "fedssd": _entry(make_fedssd, FedssdOptions, version=1, shares=True),
  "fedtgp": _entry(make_fedtgp, FedtgpOptions, version=1, shares=True),
  "fedzkt": _entry(make_fedzkt, FedzktOptions, version=1, shares=True),
  "fml": _entry(make_fml, FmlOptions, version=1),
  "lg_fedavg": _entry(make_lg_fedavg, LgFedavgOptions, version=1),
  "local": _entry(make_local, LocalOptions, version=1),
  "moon": _entry(make_moon, MoonOptions, version=1, shares=True),
  "per_fedavg": _entry(make_per_fedavg, PerFedavgOptions, version=1),
  "pfedme": _entry(make_pfedme, PfedmeOptions, version=1),
  "quped": _entry(make_quped, QupedOptions, version=1),
  "qupel": _entry(make_qupel, QupelOptions, version=1),
  "scaffold": _entry(make_scaffold, ScaffoldOptions, version=1, shares=True),
  "scaffold_ft": _entry(
    make_scaffold_ft, ScaffoldFtOptions, version=1, shares=True
  ),
}


# What else a run is known by.
_RESERVED = ("data", "federation", "networks")

# As they were before anything was registered.
BUILT_IN = dict(METHODS)


def get_method(name: str) -> Entry:
  """The method with that name.

  Raises:
    ValueError: there is no such method.
  """
  checks.choice("method", name, sorted(METHODS))
  return METHODS[name]


def option_called(option: str, method: str = "quped") -> str:
  """Which method has an option of that name, for errors.

  Args:
    option: the name of an option.
    method: the one to prefer, of several that have it.

  Returns:
    "METHOD.OPTION"; "" if no method has it.
  """
  found = [
    name
    for name, entry in METHODS.items()
    if option in [field.name for field in dataclasses.fields(entry.options)]
  ]
  preferred = [name for name in (method, "quped") if name in found]
  return f"{[*preferred, *found][0]}.{option}" if found else ""


def register_method(
  name: str,
  make: Make | MakeForData,
  options: type,
  version: int | None = None,
) -> None:
  """Adds a method, or replaces one.

  Args:
    name: the name by which settings choose it, and its options there.
    make: `(models, training, options) -> FederatedMethod`, see `Make`; if it
      has a further argument named `federation`, it gets the data too.
    options: a frozen dataclass; its fields become the settings
      `NAME.FIELD`.
    version: of the method's code, to be raised when its results change, so that
      results and checkpoints of another version are not taken for those of this
      one. None: any change of the files that `make` and `options` are written
      in, or of the author's own files that these import, counts as a change of
      results.

  Raises:
    ValueError: a version that is no whole number, options that are no class,
      or a name that is no identifier or stands for something else.

  Examples:
    FedProx under another name, with a stronger pull unless settings say else:

    >>> fedprox = qj.methods.get_method("fedprox")
    >>> @dataclasses.dataclass(frozen=True)
    ... class Options(fedprox.options):
    ...   mu: float = 1.0
    >>> qj.register_method("strong_prox", fedprox.make, Options, version=1)
    >>> qj.Settings(method="strong_prox", strong_prox={"mu": 2.0}).options().mu
    2.0
  """
  if not name.isidentifier() or name in _RESERVED:
    raise ValueError(
      f"name={name!r}: must be an identifier, and none of "
      f"{', '.join(_RESERVED)}"
    )
  if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
    raise ValueError(
      f"options={checks.shown(options)}: must be a frozen dataclass, the class "
      "and not an instance of it"
    )
  if not callable(make):
    raise ValueError(f"make={checks.shown(make)}: must be a function")
  if version is not None:
    version = checks.whole("version", version)
  METHODS[name] = _entry(make, options, version)
  METHODS[name].behaviour()  # Reads the code as it is now.
