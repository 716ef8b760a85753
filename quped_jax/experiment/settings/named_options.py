"""For type checkers: methods' names as arguments of `Settings`.

`Settings(quped={"lambda_p": 0.3})` sets an option, of any registered method;
of the built-in ones, type checkers and editors know it from here. There are no
such fields: options are kept in `method_options`.
"""

from collections.abc import Mapping
from dataclasses import InitVar
from typing import TYPE_CHECKING, Any

from quped_jax.experiment.settings.fields import Group, group

if TYPE_CHECKING:

  @group
  class NamedOptions(Group):
    """Options of the built-in methods."""

    apfl: InitVar[Mapping[str, Any]] = {}
    cfd: InitVar[Mapping[str, Any]] = {}
    cronus: InitVar[Mapping[str, Any]] = {}
    ditto: InitVar[Mapping[str, Any]] = {}
    ds_fl: InitVar[Mapping[str, Any]] = {}
    fd: InitVar[Mapping[str, Any]] = {}
    fedala: InitVar[Mapping[str, Any]] = {}
    fedaux: InitVar[Mapping[str, Any]] = {}
    fedavg: InitVar[Mapping[str, Any]] = {}
    fedavg_ft: InitVar[Mapping[str, Any]] = {}
    fedbabu: InitVar[Mapping[str, Any]] = {}
    fedbe: InitVar[Mapping[str, Any]] = {}
    fedbn: InitVar[Mapping[str, Any]] = {}
    fedcad: InitVar[Mapping[str, Any]] = {}
    feddbe: InitVar[Mapping[str, Any]] = {}
    feddf: InitVar[Mapping[str, Any]] = {}
    feddyn: InitVar[Mapping[str, Any]] = {}
    fedftg: InitVar[Mapping[str, Any]] = {}
    fedgen: InitVar[Mapping[str, Any]] = {}
    fedgkd: InitVar[Mapping[str, Any]] = {}
    fedgkd_vote: InitVar[Mapping[str, Any]] = {}
    fedgkt: InitVar[Mapping[str, Any]] = {}
    fedkd: InitVar[Mapping[str, Any]] = {}
    fedmd: InitVar[Mapping[str, Any]] = {}
    fedmlb: InitVar[Mapping[str, Any]] = {}
    fedntd: InitVar[Mapping[str, Any]] = {}
    fedper: InitVar[Mapping[str, Any]] = {}
    fedproto: InitVar[Mapping[str, Any]] = {}
    fedprox: InitVar[Mapping[str, Any]] = {}
    fedprox_ft: InitVar[Mapping[str, Any]] = {}
    fedrep: InitVar[Mapping[str, Any]] = {}
    fedrod: InitVar[Mapping[str, Any]] = {}
    fedssd: InitVar[Mapping[str, Any]] = {}
    fedtgp: InitVar[Mapping[str, Any]] = {}
    fedzkt: InitVar[Mapping[str, Any]] = {}
    fml: InitVar[Mapping[str, Any]] = {}
    lg_fedavg: InitVar[Mapping[str, Any]] = {}
    local: InitVar[Mapping[str, Any]] = {}
    moon: InitVar[Mapping[str, Any]] = {}
    per_fedavg: InitVar[Mapping[str, Any]] = {}
    pfedme: InitVar[Mapping[str, Any]] = {}
    quped: InitVar[Mapping[str, Any]] = {}
    qupel: InitVar[Mapping[str, Any]] = {}
    scaffold: InitVar[Mapping[str, Any]] = {}
    scaffold_ft: InitVar[Mapping[str, Any]] = {}

else:

  class NamedOptions(Group):
    """Nothing: `TrainingSettings` takes them."""
