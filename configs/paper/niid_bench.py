"""A published protocol: MNIST in Flower's baseline niid_bench.

10 clients; a round is 10 epochs of each client's own samples, of which a tenth
is held out; the global model is judged on all test samples, after its best
round of 50. The numbers are those of the baseline's page, which follow Li et
al., Federated Learning on Non-IID Data Silos: An Experimental Study, 2022.
"""

FULL = {
  "base": {
    "dataset": "mnist",
    "clients": 10,
    "model": "cnn1",
    "hidden": (6, 16, 120, 84),
    "padding": "valid",
    "rounds": 50,
    "epochs": 10,
    "epochs_of": "each",
    "validation_fraction": 0.1,
    "batch_size": 64,
    "optimizer": "momentum",
    "momentum": 0.9,
    "weight_decay": 1e-5,
    "learning_rate": (0.01,),
    "metrics": ("accuracy",),
    "eval_every": 1,
  },
  "methods": ("fedavg", "fedprox", "scaffold"),
  "bits": "32",
  "figure": "none",
  "seeds": (0,),
  "overrides": {
    "fedavg": {"fedavg": {"weighting": "samples"}},
    "fedprox": {"fedprox": {"weighting": "samples", "mu": 0.01}},
    "scaffold": {"scaffold": {"weighting": "samples"}},
  },
  "parts": {
    "Dirichlet 0.5": {
      "base": {
        "partition": "dirichlet",
        "alpha": 0.5,
        "self_balancing": True,
      },
      "published": {"fedavg": 98.89, "fedprox": 99.02, "scaffold": 99.07},
    },
    "two labels": {
      "base": {"partition": "label_quantity", "classes_per_client": 2},
      "published": {"fedavg": 96.86, "fedprox": 96.85, "scaffold": 96.92},
    },
  },
}

# The same with a tenth of the epochs; nothing of that is published.
SMALL = {
  "base": {"epochs": 1},
  "parts": {name: {"published": None} for name in FULL["parts"]},
}
