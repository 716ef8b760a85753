"""(b) Personalized methods on FEMNIST: 35 clients of 3 writers each, CNN1."""

from configs.paper import _personalized

FULL = {
  **_personalized.TABLE,
  "base": {
    "dataset": "femnist",
    "clients": 35,
    "partition": "natural",
    "groups_per_client": 3,
    "model": "cnn1",
    "rounds": 50,
    "steps": 20,
    "batch_size": 32,
    "centers_learning_rate": (1e-4,),
    "strength": 1e-5,
    "eval_every": 5,
  },
  "tune": {
    # Of a client: nine trials of QuPeD in full precision.
    "gradients": 27_000,
    "halving": 0,
    "seeds": (0,),
    "rounds": 50,
    "validation_fraction": 0.2,
    "spaces": _personalized.SPACES,
  },
}

SMALL = {
  "base": {
    "hidden": (8, 16, 64),
    "rounds": 20,
    "steps": 10,
    "batch_size": 16,
  },
  "tune": {"gradients": 3600, "rounds": 20},
}
