"""One quantized model on a whole dataset: configs/centralized.py:NAME."""

from experiments import common

_DATASETS = {
  "digits": dict(model="mlp", hidden=(64, 64), rounds=60, batch_size=32),
  "mnist": dict(model="cnn1", rounds=10, batch_size=64),
  "fashion_mnist": dict(model="cnn1", rounds=20, batch_size=64),
  "cifar10": dict(model="cnn1", rounds=40, batch_size=64, augment="crop_flip"),
}


def get_config(dataset="digits"):
  if dataset not in _DATASETS:
    raise ValueError(
      f"dataset={dataset!r}: must be one of {', '.join(_DATASETS)}"
    )
  chosen = _DATASETS[dataset]
  return common.get_config(
    dataset=dataset,
    method="local",
    clients=1,
    partition="iid",
    train_fraction=0.8,  # for digits, which has no test split of its own
    epochs=1,  # a round
    bits=(2,),
    optimizer="momentum",
    learning_rate=(0.02,),
    centers_learning_rate=(1e-4,),
    strength=1e-5,  # times (epoch + 1)
    finetune_at=int(0.8 * chosen["rounds"]),
    finetune_centers_learning_rate=1e-5,
    **chosen,
  )
