"""Federate your own arrays.

python examples/own_arrays.py
"""

from sklearn.datasets import load_wine

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.

# Any arrays do: of NumPy, JAX or PyTorch, or lists.
inputs, labels = load_wine(return_X_y=True)  # [178, 13], classes 0 to 2

# Each feature with mean 0 and size 1, which is where networks train best.
data = qj.from_arrays(inputs, labels, standardize=True)
# The smaller alpha is, the less alike clients are.
parts = qj.partition(data, "dirichlet", 6, alpha=1.0, min_size=12)
federation = qj.make_federation(data, parts)

settings = qj.Settings(
  clients=6,
  bits=(1, 2, 32),  # two clients each
  hidden=(32, 32),
  rounds=5,
  steps=10,
)
result = qj.run(settings, federation=federation)
print(result.summary["accuracy"]["quantized"])
