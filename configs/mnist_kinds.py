"""MNIST over 50 clients of two networks and three precisions, 10 at a time."""

from configs import mnist


def get_config():
  config = mnist.get_config()
  config.update(
    clients=50,
    kinds="15*cnn1@1, 15*cnn1@2, 20*cnn2@32",
    clients_per_round=10,
    # The global model's network.
    model="cnn1",
  )
  return config
