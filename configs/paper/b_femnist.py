"""(b) Personalized methods on FEMNIST: 35 clients of 3 writers each, CNN1."""

from configs.paper import _personalized

BASE = {
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
}

FULL = {
  **_personalized.TABLE,
  "base": BASE,
  # As many gradients of a client as nine trials of QuPeD at 2 bits take.
  "tune": {**_personalized.TUNE, "gradients": 36_000, "rounds": 50},
}

SMALL_BASE = {
  "hidden": (8, 16, 64),
  "rounds": 16,
  "steps": 10,
  "batch_size": 16,
  "eval_every": 2,
}

# As many gradients as three trials of QuPeD at 2 bits take. Of what is tried
# for 4 rounds half goes on to 8, and half of that to all 16.
SMALL_TUNE = {"gradients": 1920, "rounds": 16, "halving": 2}

SMALL = {"base": SMALL_BASE, "tune": SMALL_TUNE}
