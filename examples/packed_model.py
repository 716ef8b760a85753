"""A client's low-bit model as a small file, and what is in it.

python examples/packed_model.py

The file says all that there is to say: network, levels, and how raw samples are
normalised. Two modules of the package read and run it with NumPy alone, and may
be copied to where the model shall run. docs/model-files.md describes the file
to the byte.
"""

import pathlib

import numpy as np

import quped_jax as qj
from quped_jax.files import numpy_networks, numpy_reader

qj.use_compilation_cache()  # A further run need not compile.

settings = qj.Settings(
  method="local",
  clients=4,
  bits=(1, 2, 4, 32),
  rounds=5,
  save_models="clients",
)
result = qj.run(settings, "results/packed")
for path in sorted(pathlib.Path("results/packed/models").iterdir()):
  packed = qj.load_packed(path)
  levels = np.unique(packed.params["hidden_1"]["kernel"]).size
  print(f"{path.name}: {path.stat().st_size:6,} bytes, {levels} levels")

path = "results/packed/models/client_00001.safetensors"
samples = qj.load_dataset("digits").inputs[:100]
logits = qj.load_packed(path).predict(samples)

# The same in NumPy alone.
outputs = numpy_networks.predict(numpy_reader.read(path), samples)
print("largest difference:", np.abs(outputs - logits).max())
