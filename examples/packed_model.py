"""A client's low-bit model as a small file, and what is in it.

python examples/packed_model.py

The file says all that there is to say: network, levels, and how raw samples are
normalised. docs/model-files.md describes it to the byte.
"""

import pathlib

import numpy as np

import quped_jax as qj

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

packed = qj.load_packed("results/packed/models/client_00001.safetensors")
samples = qj.load_dataset("digits").inputs[:100]
logits = packed.predict(samples)

# The same in NumPy alone: the arrays are as any other's.
params = packed.params
outputs = ((samples - packed.mean) / packed.std).reshape(len(samples), -1)
for name in ("first", "hidden_1"):
  outputs = outputs @ params[name]["kernel"] + params[name]["bias"]
  outputs = np.maximum(outputs, 0)
outputs = outputs @ params["last"]["kernel"] + params["last"]["bias"]
print("largest difference:", np.abs(outputs - logits).max())
