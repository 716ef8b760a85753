"""(a) One quantized model on all of MNIST: CNN1."""

from configs.paper import _centralized

FULL = {
  **_centralized.TABLE,
  "base": {
    **_centralized.BASE,
    "dataset": "mnist",
    "model": "cnn1",
    "rounds": 20,
    "eval_every": 5,
  },
  # As many gradients as six trials with the estimator "soft" take.
  "tune": {**_centralized.TABLE["tune"], "gradients": 337_320, "rounds": 20},
}

_STEPS = {"epochs": 0, "steps": 60}

SMALL = {
  "base": {**_STEPS, "rounds": 8, "eval_every": 4, "hidden": (8, 16, 64)},
  "tune": {"gradients": 8640, "rounds": 8},
}
