"""The baselines in PyTorch: a loop over clients, and all of them batched.

The loop is ordinary code, with a plain module for each client: zero_grad, cross
entropy, backward and a step of SGD. The batched form takes a step of all
clients at once, with stacked weights and `torch.func`. Both run on all cores
(PyTorch's default) or on a GPU if PyTorch has one. Batches are on the device as
tensors beforehand. PyTorch comes with the extra `bench`; without it these
baselines are left out.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.engine import CLASSES

NAME = "PyTorch loop over clients"

_LEARNING_RATE = 0.01


def available() -> bool:
  """Whether PyTorch is installed."""
  return importlib.util.find_spec("torch") is not None


def _torch() -> Any:
  return importlib.import_module("torch")


def _device() -> str:
  return "cuda" if _torch().cuda.is_available() else "cpu"


def _wait() -> None:
  torch = _torch()
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def mlp(inputs: int, hidden: Sequence[int]) -> Any:
  """Dense layers with relu between them, like "mlp" in `quped_jax`."""
  nn = _torch().nn
  layers: list[Any] = [nn.Flatten()]
  for width in hidden:
    layers += [nn.Linear(inputs, width), nn.ReLU()]
    inputs = width
  return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def cnn(
  shape: tuple[int, int, int], convs: Sequence[int], dense: Sequence[int]
) -> Any:
  """5x5 convolutions, each followed by pooling, then dense layers: "cnn1".

  Args:
    shape: height, width and channels of an image.
    convs: channels of the convolutions.
    dense: widths of the dense layers before the last.
  """
  nn = _torch().nn
  height, width, channels = shape
  layers: list[Any] = []
  for features in convs:
    # In the order of ours, with which relu has a quarter of the work.
    layers += [
      nn.Conv2d(channels, features, 5, padding=2),
      nn.MaxPool2d(2),
      nn.ReLU(),
    ]
    height, width, channels = height // 2, width // 2, features
  return nn.Sequential(*layers, mlp(height * width * channels, dense))


def loop(
  make: Callable[[], Any],
  clients: int,
  steps: int,
  batch: int,
  shape: tuple[int, ...],
) -> Callable[[], None]:
  """A round of all clients, one after the other.

  Args:
    make: makes a client's module.
    clients: how many.
    steps: of each client.
    batch: samples per step.
    shape: of one input; images have channels last here, and are transposed.
  """
  torch = _torch()
  models, inputs, labels = _prepared(make, clients, steps, batch, shape)
  optimizers = [
    torch.optim.SGD(m.parameters(), lr=_LEARNING_RATE) for m in models
  ]
  loss_fn = torch.nn.CrossEntropyLoss()
  # Indexed now, so that the loop need not.
  batches = [
    [(inputs[i, j], labels[i, j]) for j in range(steps)] for i in range(clients)
  ]

  def run():
    for model, optimizer, own in zip(models, optimizers, batches, strict=True):
      for x, y in own:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    _wait()

  return run


def batched(
  make: Callable[[], Any],
  clients: int,
  steps: int,
  batch: int,
  shape: tuple[int, ...],
) -> Callable[[], None]:
  """A round in which each step is one of all clients, by `torch.func`.

  Args:
    make: makes a client's module.
    clients: how many.
    steps: of each client.
    batch: samples per step.
    shape: see `loop`.
  """
  torch = _torch()
  func = importlib.import_module("torch.func")
  models, inputs, labels = _prepared(make, clients, steps, batch, shape)
  params, _ = func.stack_module_state(models)
  params = {name: value.detach() for name, value in params.items()}
  module = models[0]

  def loss(params, x, y):
    logits = func.functional_call(module, params, (x,))
    return torch.nn.functional.cross_entropy(logits, y)

  gradients = func.vmap(func.grad(loss))

  def run():
    for j in range(steps):
      grads = gradients(params, inputs[:, j], labels[:, j])
      for name, value in params.items():
        value.sub_(grads[name], alpha=_LEARNING_RATE)
    _wait()

  return run


def _prepared(make, clients, steps, batch, shape):
  """Modules; inputs `[clients, steps, batch, ...]`; labels."""
  torch = _torch()
  torch.manual_seed(0)
  if len(shape) == 3:
    shape = (shape[2], *shape[:2])
  device = _device()
  models = [make().to(device) for _ in range(clients)]
  inputs = torch.randn(clients, steps, batch, *shape, device=device)
  labels = torch.randint(CLASSES, (clients, steps, batch), device=device)
  return models, inputs, labels


def convolution(
  images: np.ndarray, kernel: np.ndarray, kernel_only: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
  """One convolution, padding "SAME", and its gradient without the forward.

  Args:
    images: `[batch, height, width, in]`.
    kernel: `[size, size, in, out]`, of odd size.
    kernel_only: whether the gradient is that of the kernel alone.

  Returns:
    A function that runs the convolution, and one that runs the gradient.
  """
  torch = _torch()
  device = _device()
  x = torch.tensor(images.transpose(0, 3, 1, 2).copy(), device=device)
  k = torch.tensor(kernel.transpose(3, 2, 0, 1).copy(), device=device)
  x.requires_grad_(not kernel_only)
  k.requires_grad_()

  def apply():
    return torch.nn.functional.conv2d(x, k, padding=kernel.shape[0] // 2)

  outputs = apply()
  cotangent = torch.randn_like(outputs)
  wanted = (k,) if kernel_only else (x, k)

  def forward():
    with torch.no_grad():
      apply()
    _wait()

  def gradient():
    torch.autograd.grad(outputs, wanted, cotangent, retain_graph=True)
    _wait()

  return forward, gradient
