"""What clients train on in several suites: a network and its batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import quped_jax as qj
from experiments.benchmarks import engine, flops, plain, torch_loop


class Task(NamedTuple):
  """What each client does in a round of SGD.

  Attributes:
    title: of the network.
    network: its name, "mlp" or "cnn1".
    shape: of an input.
    hidden: widths of the dense layers before the last.
    convs: channels of the convolutions.
    batch: samples per step.
    steps: per round.
  """

  title: str
  network: str
  shape: tuple[int, ...]
  hidden: tuple[int, ...]
  convs: tuple[int, ...] = ()
  batch: int = 32
  steps: int = 10

  def model(self, conv: str = "auto", dtype: str | None = None) -> qj.Model:
    """The network, which computes in a type; None for float32."""
    options: dict[str, Any] = {"features": self.hidden}
    if self.network == "cnn1":
      options = {"conv_features": self.convs, "dense_features": self.hidden}
    if dtype not in (None, "float32"):
      options["dtype"] = jnp.dtype(dtype)
    return qj.create_model(self.network, engine.CLASSES, conv=conv, **options)

  def federation(self, clients: int) -> qj.Federation:
    """Two batches of samples for each client."""
    return engine.random_federation(clients, self.shape, 2 * self.batch)

  def rounds(
    self,
    federation: qj.Federation,
    *,
    dtype: str | None = None,
    **settings: Any,
  ) -> engine.Rounds:
    """Rounds of the engine; local training if the settings say nothing."""
    return engine.rounds(
      federation,
      self.model(dtype=dtype),
      steps=self.steps,
      batch_size=self.batch,
      **{"method": "local", "bits": (32,), **settings},
    )

  def python_loop(self, clients: int) -> Callable[[], Any]:
    work = plain.make_work(
      self.model(), clients, self.steps, self.batch, self.shape
    )
    return plain.looped(work)

  def torch_module(self) -> Any:
    """A client's module in PyTorch."""
    if self.network == "cnn1":
      height, width, channels = self.shape
      return torch_loop.cnn((height, width, channels), self.convs, self.hidden)
    (inputs,) = self.shape
    return torch_loop.mlp(inputs, self.hidden)

  def torch_loop(self, clients: int) -> Callable[[], None]:
    return torch_loop.loop(
      self.torch_module, clients, self.steps, self.batch, self.shape
    )

  def torch_batched(self, clients: int) -> Callable[[], None]:
    return torch_loop.batched(
      self.torch_module, clients, self.steps, self.batch, self.shape
    )

  def flops(self) -> int:
    """Of one client's round."""
    shape = (self.batch, *self.shape)
    return self.steps * flops.sgd_flops(self.model("native"), shape)

  def sizes(self) -> dict[str, Any]:
    return {"batch": self.batch, "steps": self.steps}


DIGITS = Task("MLP 64-64-64-10", "mlp", (64,), (64, 64), batch=16)
MNIST = Task("MLP 784-200-100-10", "mlp", (784,), (200, 100))
CNN1 = Task("CNN1 28x28", "cnn1", (28, 28, 1), (512,), (32, 64))
TINY = Task("tiny MLP", "mlp", (6,), (4, 4), batch=2, steps=2)
TINY_CNN1 = Task("tiny CNN1", "cnn1", (8, 8, 1), (4,), (2, 3), 2, 2)
