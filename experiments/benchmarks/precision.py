"""Suite `precision`: computing in float32 and in bfloat16.

A step of SGD in the engine (method `local`, 32 bits, parameters always in
float32) on an MLP 784-200-100-10, CNN1 and ResNet-8, and plain products of
square matrices. The reference of each group is float32. Fractions are of the
matrix rate of the same dtype.
"""

from typing import Any

import jax
import jax.numpy as jnp

import quped_jax as qj
from experiments.benchmarks import engine, flops
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.timing import Contestant

_TYPES = {"float32": None, "bfloat16": jnp.bfloat16}

# title: (model, options, shape of an input).
_NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
  "MLP 784-200-100-10": ("mlp", {"features": (200, 100)}, (784,)),
  "CNN1 28x28": ("cnn1", {}, (28, 28, 1)),
  "ResNet-8 32x32": ("resnet8", {}, (32, 32, 3)),
}
_TINY: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
  "tiny MLP": ("mlp", {"features": (4, 4)}, (6,)),
}
_PRODUCTS = (256, 1024, 2048)


def run(bench: Bench) -> None:
  """Measures the suite."""
  clients, steps, batch = (2, 1, 2) if bench.quick else (4, 5, 32)
  networks = _TINY if bench.quick else _NETWORKS
  for title, (name, options, shape) in networks.items():
    native = qj.create_model(name, engine.CLASSES, conv="native", **options)
    count = flops.sgd_flops(native, (batch, *shape))
    federation = engine.random_federation(clients, shape, steps * batch)
    contestants = [
      Contestant(
        type_name,
        engine.rounds(
          federation,
          qj.create_model(name, engine.CLASSES, dtype=dtype, **options),
          method="local",
          bits=(32,),
          steps=steps,
          batch_size=batch,
        ),
        clients * steps,
        count,
        type_name,
      )
      for type_name, dtype in _TYPES.items()
    ]
    bench.measure(
      f"{title}, SGD",
      "client step",
      contestants,
      sizes={"clients": clients, "steps": steps, "batch": batch},
      reference="float32",
    )
  for size in (16,) if bench.quick else _PRODUCTS:
    bench.measure(
      f"product of matrices, {size}",
      "product",
      [_product(type_name, size) for type_name in _TYPES],
      sizes={"size": size},
      reference="float32",
    )


def _product(type_name: str, size: int) -> Contestant:
  matrix = jnp.ones((size, size), type_name)
  program = jax.jit(jnp.dot)
  return Contestant(
    type_name,
    lambda: program(matrix, matrix).block_until_ready(),
    1,
    2 * size**3,
    type_name,
  )
