"""(d) 10 of 50 clients in each round, on MNIST."""

from configs.paper import b_mnist
from configs.paper.b_femnist import SMALL_BASE

FULL = {
  **b_mnist.FULL,
  "base": {**b_mnist.BASE, "clients_per_round": 10, "rounds": 200},
  "tune": {**b_mnist.FULL["tune"], "gradients": 144_000, "rounds": 200},
}

SMALL = {
  "base": {**SMALL_BASE, "rounds": 60, "eval_every": 6},
  "tune": {"gradients": 7200, "rounds": 60, "halving": 2},
}
