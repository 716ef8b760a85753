"""All methods side by side on images: configs/compare_images.py:NAME.

NAME is mnist, fashion_mnist, femnist or cifar10. Bring an accelerator. Step
sizes and options are those of the dataset's own config and of the methods'
papers: `--tune` chooses better ones.
"""

from experiments import common


def get_config(dataset="mnist"):
  return common.get_variant("compare_images", "dataset", dataset)
