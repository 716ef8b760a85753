"""CIFAR-10 over 50 clients of 4 classes each, CNN1 for colour images."""

from configs import mnist


def get_config():
  config = mnist.get_config()
  config.update(
    dataset="cifar10",
    classes_per_client=4,
    augment="crop_flip",
    rounds=100,
    steps=40,
  )
  return config
