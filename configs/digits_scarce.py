"""Digits with little data per client, where one shared model does better."""

from configs import digits


def get_config():
  config = digits.get_config()
  config.update(
    clients=30,
    classes_per_client=5,
    train_fraction=0.3,
    rounds=100,
    steps=10,
    eval_every=5,
  )
  return config
