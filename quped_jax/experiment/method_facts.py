"""What every method is and needs, found out from its code.

A method is built for a small federation, as a run would build it, with one
setting after the other; what it refuses, it does not do. What it sends is
measured by shape. Nothing is compiled.
"""

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import optax

from quped_jax import methods
from quped_jax.experiment import assemble as assemble_lib
from quped_jax.experiment import parts
from quped_jax.experiment.settings import Settings
from quped_jax.methods import api
from quped_jax.simulation import memory

# The federation for which methods are built.
_BASE: dict[str, Any] = {
  "dataset": "digits",
  "clients": 4,
  "classes_per_client": 4,
  "public_size": 40,
  "batch_size": 4,
  "rounds": 2,
  "steps": 2,
  "devices": 1,
  "bits": (32,),
}
_NETWORK: dict[str, Any] = {"model": "mlp", "hidden": (16, 16)}
# For methods that ask for layers which that one lacks.
_NORMALISED: dict[str, Any] = {"model": "resnet8", "hidden": ()}


class Facts(NamedTuple):
  """What a method is and needs.

  Attributes:
    name: of the method.
    idea: the first line of its docstring, after its title.
    down: what a client receives in a round, by name.
    up: what it sends, likewise.
    size_down: bytes that it receives, in sizes of its model.
    size_up: bytes that it sends, likewise.
    variants: the models on which a client is evaluated.
    primary: the one that comparisons report.
    networks: whether clients may have networks of different kinds.
    public: "" for a method without a public set, "samples" or "labels" for
      what it needs of it.
    quantized: whether clients may be quantized.
    robust: whether the median of messages, or another robust average, may
      take their mean's place.
    clipped: whether messages may be clipped to a norm.
    private: whether the model may be differentially private.
    compressed: whether what clients send may be compressed.
  """

  name: str
  idea: str
  down: tuple[str, ...]
  up: tuple[str, ...]
  size_down: float
  size_up: float
  variants: tuple[str, ...]
  primary: str
  networks: bool
  public: str
  quantized: bool
  robust: bool
  clipped: bool
  private: bool
  compressed: bool


def facts(name: str) -> Facts:
  """What a registered method is and needs.

  Raises:
    ValueError: no such method, or one that cannot be built for digits.
  """
  entry = methods.get_method(name)
  network = _NETWORK
  try:
    made = _build(name, network)
  except ValueError:
    network = _NORMALISED
    made = _build(name, network)
  (cohort,) = made.models.clients
  model = made.models.clients[cohort]
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), made.federation.example()
  )
  size = memory.nbytes(shapes)

  def works(**changes) -> bool:
    try:
      with _quiet():
        parts.make_parts(_settings(name, network, **changes))
    except ValueError:
      return False
    return True

  down, up = made.traffic(cohort, 0)
  public = ""
  if not works(public_size=0):
    public = "samples" if works(public_labelled=False) else "labels"
  options = {}
  if any(x.name == "weighting" for x in dataclasses.fields(entry.options)):
    options = {"method_options": {name: {"weighting": "uniform"}}}
  return Facts(
    name=name,
    idea=_idea(entry.make),
    down=_named(down),
    up=_named(up),
    size_down=made.simulation.bytes_down / size,
    size_up=made.simulation.bytes_up / size,
    variants=tuple(made.variants(cohort, 0)),
    primary=made.method.primary_variant,
    networks=works(client_types="2*mlp(16)@32, 2*mlp(8,16)@32"),
    public=public,
    quantized=works(bits=(1, 32)),
    robust=works(aggregation="median"),
    clipped=works(aggregation="norm_clipped_mean"),
    private=works(dp_clip=1.0, dp_noise=1.0, participation=(0.5,), **options),
    compressed=works(compression="qsgd"),
  )


def _settings(name: str, network: dict[str, Any], **changes: Any) -> Settings:
  return Settings(**{"method": name, **_BASE, **network, **changes})


def _build(name: str, network: dict[str, Any]) -> assemble_lib.Assembly:
  with _quiet():
    return assemble_lib.assemble(_settings(name, network))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


def _named(tree: Any) -> tuple[str, ...]:
  """Names of what travels: of the parts, or what it is as a whole."""
  if not jax.tree.leaves(tree):
    return ()
  if isinstance(tree, api.GlobalModel):
    paths, _ = jax.tree_util.tree_flatten_with_path(
      tree.params, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
    )
    whole = not any(isinstance(x, optax.MaskedNode) for _, x in paths)
    return ("model" if whole else "shared part",)
  fields = getattr(tree, "_fields", ())
  if not fields:
    return ("outputs",)
  return tuple(
    name.replace("_", " ")
    for name in fields
    if jax.tree.leaves(getattr(tree, name))
  )


def _idea(make: Any) -> str:
  """The first line of the docstring of the file that makes a method."""
  first = (sys.modules[make.__module__].__doc__ or "").partition("\n")[0]
  title, _, rest = first.partition(": ")
  return (rest or title).rstrip(".")
