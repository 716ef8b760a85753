"""The CIFAR-10 recipe of QuPeD's released code: ResNet-20, 250 epochs.

configs/cifar10_centralized.py        SGD with momentum
configs/cifar10_centralized.py:adam   Adam, levels from -1 to 1

As there, the estimator is "hard" and quantized weights are clipped to [-1, 1];
with --config.norm=l2 they are not: set --config.weight_clip=0. Use
--config.model=resnet32 for ResNet-32. For ResNet-8 set --config.strength=1e-5
and --config.strength_drop_factor=1, for a small CNN --config.strength=1e-6. For
a warm start set --config.warm_start=FILE, with the model.safetensors of a run
with --config.bits=32.

What differs from the released code: with 1 bit, a weight goes to its nearest
level, not to that of its sign (between -1 and 1 it is the same); with more bits
and Adam, all levels start evenly spaced, not only the outer ones at -1 and 1;
weights are clipped before the proximal step, not after it; levels take the
exact proximal step; and the quantized model is evaluated with batch-norm
statistics of its own.
"""

from experiments import common


def get_config(optimizer="sgd"):
  return common.get_variant("cifar10_centralized", "optimizer", optimizer)
