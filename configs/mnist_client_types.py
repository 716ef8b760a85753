"""MNIST over 50 clients of two networks and three precisions, 10 at a time.

Each client has some 240 training samples, with class proportions of its own.
"""

from configs import mnist


def get_config():
  config = mnist.get_config()
  config.update(
    clients=50,
    client_types="15*cnn1@1, 15*cnn1@2, 20*cnn2@32",
    clients_per_round=10,
    # The global model's network.
    model="cnn1",
    partition="dirichlet",
    alpha=1.0,
    # Held out from the clients, so that they have few samples; QuPeD and local
    # training do not look at it.
    public_size=48_000,
    optimizer="adam",
    learning_rate=(1e-3,),
    shared_optimizer="adam",
    shared_learning_rate=1e-3,
    rounds=40,
    eval_every=10,
  )
  return config
