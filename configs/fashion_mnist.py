"""Fashion-MNIST over 50 clients of 3 classes each, CNN1."""

from configs import mnist


def get_config():
  config = mnist.get_config()
  config.dataset = "fashion_mnist"
  return config
