"""100,000 clients on synthetic data, 1,000 at a time, states in host memory."""

from configs import digits


def get_config():
  config = digits.get_config()
  config.update(
    dataset="synthetic",
    clients=100_000,
    clients_per_round=1000,
    client_state="host",
    rounds=10,
    steps=10,
    bits=(1, 2, 32),
    eval_every=10,
  )
  return config
