"""(h) Beyond the paper, once more: the idea of `h_choose` in longer training.

`i_why` shows that a global model is worth more, the longer one trains: so with
twice the rounds. The spaces have the values that did well there, and fewer of
them. What validation comes to here is what `h_confirm` takes.
"""

from configs.paper import b_femnist, h_choose

SPACES = {
  "quped": {
    "learning_rate": (0.03, 0.06),
    "shared_learning_rate": (0.03, 0.1),
    "quped": {"lambda_p": (0.1, 0.25)},
  },
  "fedavg_ft": {
    "learning_rate": (0.06, 0.12),
    "fedavg_ft": {"adapt_steps": (20,), "adapt_learning_rate": (0.01, 0.03)},
  },
}
_OWN = ("labels", "blend_50", "blend_100")

FULL = {
  **h_choose.FULL,
  "base": {**b_femnist.BASE, "rounds": 100},
  "methods": (*_OWN, "fedavg_ft"),
  "tune": {
    **h_choose.FULL["tune"],
    "gradients": 72_000,
    "rounds": 100,
    "spaces": {
      **dict.fromkeys(_OWN, SPACES["quped"]),
      "fedavg_ft": SPACES["fedavg_ft"],
    },
  },
}

SMALL = {
  "base": {**b_femnist.SMALL_BASE, "rounds": 32},
  "tune": {**b_femnist.SMALL_TUNE, "gradients": 3840, "rounds": 32},
}
