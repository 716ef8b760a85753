"""With what a run was computed: versions and devices."""

import importlib.metadata
import platform
from typing import Any

import jax

from quped_jax import version

# Whose versions may change numbers.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def here() -> dict[str, Any]:
  """Versions and devices of this process, JSON values.

  Returns:
    `python`, `quped_jax` and the packages that it computes with: their
    versions; `system`: the operating system and the kind of its processor;
    `device`: the kind of the devices; `devices`: how many all processes have;
    `processes`: how many there are.
  """
  return {
    "python": platform.python_version(),
    "quped_jax": version.__version__,
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    "system": f"{platform.system()} {platform.machine()}",
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
  }
