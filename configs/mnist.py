"""MNIST over 50 clients of 3 classes each, CNN1."""

from experiments import common


def get_config():
  return common.get_config(
    dataset="mnist",
    clients=50,
    partition="pathological",
    classes_per_client=3,
    model="cnn1",
    method="quped",
    rounds=50,
    steps=20,
    batch_size=32,
    bits=(2,),
    learning_rate=(0.01,),
    shared_learning_rate=0.01,
    centers_learning_rate=(1e-4,),
    strength=1e-5,  # times (round + 1)
    quped={"temperature": 3.0, "global_loss": "distill+labels"},
    eval_every=5,
  )
