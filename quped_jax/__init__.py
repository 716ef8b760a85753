"""quped_jax: personalized, quantized federated learning in JAX.

The names are those of `quped_jax.public_api`. They are imported when one is
first used, so that the command line need not wait for JAX where it uses none.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from quped_jax.version import __version__ as __version__

if TYPE_CHECKING:
  from quped_jax.public_api import *  # noqa: F403
  from quped_jax.public_api import __all__ as __all__
else:

  def __getattr__(name: str) -> Any:
    """A part of the package, or else one of its public names."""
    if name.startswith("__") and name != "__all__":
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
      return importlib.import_module(f"{__name__}.{name}")
    public = importlib.import_module(f"{__name__}.public_api")
    if name == "__all__":
      return public.__all__
    if name not in public.__all__:
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The next time it is found without this function.
    return globals().setdefault(name, getattr(public, name))

  def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
