"""Suite `conv`: CNN1 under SGD, and its single convolutions.

SGD on CNN1 with 28x28x1 and 32x32x3 images, 8 clients with weights and data of
their own, 2 local steps each. Compared, per client step, are the engine in its
own form (canonical convolution, one client after the other in a compiled loop)
and in other forms; XLA's native convolution as one would write it in plain JAX
(under vmap, in a compiled loop, one dispatch per client step); and a PyTorch
loop over clients. The engine also draws its batches; the others find theirs
prepared.

Then each convolution alone, outside of any loop: canonical, shifted, native and
PyTorch's, forward and gradient (with respect to the kernel, and to the inputs
too unless they are the images).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import engine, flops, plain, torch_loop
from experiments.benchmarks.bench import NO_TORCH, Bench
from experiments.benchmarks.tasks import CNN1, TINY_CNN1, Task
from experiments.benchmarks.timing import Contestant
from quped_jax.models import resolve_conv
from quped_jax.simulation.program import compile_lowered

_WINDOW = 5
# Number of clients in the native loop, which takes seconds per step.
_FEW = 2


_NETWORKS = (
  CNN1._replace(steps=2),
  Task("CNN1 32x32", "cnn1", (32, 32, 3), (384, 192), (64, 64), steps=2),
)
_TINY = (TINY_CNN1,)


def _layers(network: Task) -> list[tuple[int, int, int, int]]:
  """Height, width, channels in and channels out of the convolutions."""
  height, width, channels = network.shape
  first, second = network.convs
  return [
    (height, width, channels, first),
    (height // 2, width // 2, first, second),
  ]


# The engine's forms: (title, convolution, strategy, devices; 0 for all).
_FORMS = (
  ("ours, one device", "auto", "auto", 1),
  ("ours, dispatch", "auto", "dispatch", 1),
  ("engine: canonical, vmap", "canonical", "vmap", 1),
  ("engine: shift, loop", "shift", "chunks", 1),
  ("engine: shift, vmap", "shift", "vmap", 1),
  ("engine: adaptive, vmap", "adaptive", "vmap", 1),
)


def run(bench: Bench) -> None:
  """Measures the suite."""
  networks = _TINY if bench.quick else _NETWORKS
  for network in networks:
    _client_steps(bench, network)
  for network in networks:
    for number, layer in enumerate(_layers(network)):
      _single(bench, layer, is_first=number == 0)
  if not torch_loop.available():
    bench.note(NO_TORCH)


def _client_steps(bench: Bench, network: Task) -> None:
  clients, steps, batch = 2 if bench.quick else 8, network.steps, network.batch
  count = flops.sgd_flops(network.model("native"), (batch, *network.shape))
  federation = network.federation(clients)
  work = plain.make_work(
    network.model("native"), clients, steps, batch, network.shape
  )
  forms = _FORMS
  if jax.local_device_count() > 1:
    forms = (("ours, all devices", "auto", "auto", 0), *forms)
  everything = clients * steps

  def contestant(name: str, run: Callable[[], Any], units: int = everything):
    return Contestant(name, run, units, count)

  few = min(clients, _FEW)
  contestants = [
    contestant(
      name,
      engine.rounds(
        federation,
        network.model(conv),
        method="local",
        bits=(32,),
        steps=steps,
        batch_size=batch,
        strategy=strategy,
        devices=devices,
      ),
    )
    for name, conv, strategy, devices in forms
  ]
  contestants += [
    # These two take from seconds to a minute.
    contestant("native, vmap, steps in a scan", plain.vmapped(work))._replace(
      warm=True
    ),
    contestant(
      "native, lax.map over clients", plain.mapped(work, few), few
    )._replace(warm=True),
    contestant(
      "native, vmap, one step, no loop", plain.vmapped_step(work), clients
    ),
    contestant("native, Python loop over steps", plain.dispatched(work)),
  ]
  if torch_loop.available():
    loop = network.torch_loop(clients)
    contestants.append(contestant(torch_loop.NAME, loop))
  bench.measure(
    f"CNN1, SGD, {_times(network.shape)}",
    "client step",
    contestants,
    sizes={"clients": clients, "steps": steps, "batch": batch},
    reference=torch_loop.NAME,
  )


def _times(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape))


def _single(
  bench: Bench, layer: tuple[int, int, int, int], *, is_first: bool
) -> None:
  height, width, channels, features = layer
  batch = 2 if bench.quick else 32
  rng = np.random.default_rng(0)

  def array(*shape):
    return rng.standard_normal(shape, np.float32)

  images = array(batch, height, width, channels)
  kernel = array(_WINDOW, _WINDOW, channels, features)
  cotangent = array(batch, height, width, features)
  count = 2 * cotangent.size * _WINDOW**2 * channels
  forward, gradient = [], []
  grad_count = count if is_first else 2 * count
  for name in ("canonical", "shift", "native"):
    runs = _jax_convolution(name, images, kernel, cotangent, is_first)
    forward.append(Contestant(name, runs[0], 1, count))
    gradient.append(Contestant(name, runs[1], 1, grad_count))
  if torch_loop.available():
    runs = torch_loop.convolution(images, kernel, is_first)
    forward.append(Contestant("PyTorch", runs[0], 1, count))
    gradient.append(Contestant("PyTorch", runs[1], 1, grad_count))
  sizes = {"batch": batch, "window": _WINDOW, "features": features}
  shape = _times((height, width, channels))
  for title, contestants in (("forward", forward), ("gradient", gradient)):
    bench.measure(
      f"convolution of {shape} to {features}, {title}",
      "convolution",
      contestants,
      sizes=sizes,
      reference="PyTorch",
    )


def _jax_convolution(name, images, kernel, cotangent, kernel_only):
  """Functions that run a convolution and its gradient as models would.

  Native convolutions are compiled with JAX's options, ours with our own.
  """
  function = resolve_conv(name)

  def forward(x, k):
    return function(
      x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  def gradient(x, k, g):
    if kernel_only:
      return jax.vjp(lambda k: forward(x, k), k)[1](g)
    return jax.vjp(forward, x, k)[1](g)

  def runner(fn, *args):
    arrays = [jnp.asarray(a) for a in args]
    lowered = jax.jit(fn).lower(*arrays)
    program = (
      lowered.compile() if name == "native" else compile_lowered(lowered)
    )
    return lambda: jax.block_until_ready(program(*arrays))

  return (
    runner(forward, images, kernel),
    runner(gradient, images, kernel, cotangent),
  )
