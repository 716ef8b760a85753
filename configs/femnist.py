"""FEMNIST by writer, 3 writers per client, CNN1."""

from configs import mnist


def get_config():
  config = mnist.get_config()
  config.update(
    dataset="femnist",
    partition="natural",
    groups_per_client=3,
    clients=35,  # of the 105 writers of the prepared subset
  )
  return config
