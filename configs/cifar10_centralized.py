"""The CIFAR-10 recipe of QuPeD's released code: ResNet-20, 250 epochs.

configs/cifar10_centralized.py        SGD with momentum
configs/cifar10_centralized.py:adam   Adam, levels from -1 to 1

Use --config.model=resnet32 for ResNet-32; set --config.strength=1e-5 for
ResNet-8, and 1e-6 for a small CNN. For a warm start set
--config.warm_start=FILE, with the model.safetensors of a run with
--config.bits=32.
"""

from experiments import common

_OPTIMIZERS = {
  "sgd": dict(
    optimizer="momentum",
    momentum=0.9,
    learning_rate=(0.1,),
    learning_rate_drops=(100, 150),  # epochs, x0.1 each
    strength_drop_factor=10.0,
  ),
  "adam": dict(
    optimizer="adam",
    learning_rate=(1e-2,),
    outer_level=1.0,
    weight_clip=1.0,
  ),
}


def get_config(optimizer="sgd"):
  if optimizer not in _OPTIMIZERS:
    raise ValueError(
      f"optimizer={optimizer!r}: must be one of {', '.join(_OPTIMIZERS)}"
    )
  return common.get_config(
    dataset="cifar10",
    augment="crop_flip",
    model="resnet20",
    method="local",
    clients=1,
    partition="iid",
    rounds=250,
    epochs=1,  # a round
    batch_size=128,
    bits=(1,),
    strength=1e-4,  # times (epoch + 1)
    centers_learning_rate=(1e-4,),
    centers_drops=(80, 140),  # epochs: 1e-5, then 1e-6
    centers_clip=10.0,
    finetune_at=200,
    finetune_centers_learning_rate=1e-6,
    recalibration_batches=20,
    **_OPTIMIZERS[optimizer],
  )
