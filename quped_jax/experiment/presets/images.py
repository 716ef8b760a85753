"""Presets on datasets of images, with CNN1."""

from typing import Any

MNIST: dict[str, Any] = {
  "dataset": "mnist",
  "clients": 50,
  "partition": "pathological",
  "classes_per_client": 3,
  "model": "cnn1",
  "method": "quped",
  "rounds": 50,
  "steps": 20,
  "batch_size": 32,
  "bits": (2,),
  "learning_rate": (0.01,),
  "shared_learning_rate": 0.01,
  "centers_learning_rate": (1e-4,),
  "strength": 1e-5,  # times (round + 1)
  "quped": {"temperature": 3.0, "global_loss": "distill+labels"},
  "eval_every": 5,
}

# Each client has some 240 training samples, with class proportions of its own.
MNIST_CLIENT_TYPES: dict[str, Any] = {
  **MNIST,
  "clients": 50,
  "client_types": "15*cnn1@1, 15*cnn1@2, 20*cnn2@32",
  "clients_per_round": 10,
  "model": "cnn1",  # the global model's
  "partition": "dirichlet",
  "alpha": 1.0,
  # Held out from the clients, so that they have few samples; QuPeD and local
  # training do not look at it.
  "public_size": 48_000,
  "optimizer": "adam",
  "learning_rate": (1e-3,),
  "shared_optimizer": "adam",
  "shared_learning_rate": 1e-3,
  "rounds": 40,
  "eval_every": 10,
}

FASHION_MNIST: dict[str, Any] = {**MNIST, "dataset": "fashion_mnist"}

FEMNIST: dict[str, Any] = {
  **MNIST,
  "dataset": "femnist",
  "partition": "natural",
  "groups_per_client": 3,
  "clients": 35,  # of the 105 writers of the prepared subset
}

CIFAR10: dict[str, Any] = {
  **MNIST,
  "dataset": "cifar10",
  "classes_per_client": 4,
  "augment": "crop_flip",
  "rounds": 100,
  "steps": 40,
}
