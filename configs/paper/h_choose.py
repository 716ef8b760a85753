"""(h) Beyond the paper, at 2 bits: an idea, chosen on FEMNIST's validation.

A client's own weights begin each round nearer to the received global model, by
`quped.blend` of the way: 0 is the paper's QuPeD. Which value, if any, is read
from the validation accuracy that tuning came to; that on test samples stands
beside it and chooses nothing. What is chosen is judged elsewhere: `h_confirm`.
"""

from configs.paper import _personalized, b_femnist

_LABELS = {"global_loss": "distill+labels"}
_ROWS = {
  "labels": ("QuPeD (distill+labels)", _LABELS),
  "blend_25": ("distill+labels, blend 0.25", {**_LABELS, "blend": 0.25}),
  "blend_50": ("distill+labels, blend 0.5", {**_LABELS, "blend": 0.5}),
  "blend_100": ("distill+labels, blend 1", {**_LABELS, "blend": 1.0}),
}

FULL = {
  "base": b_femnist.BASE,
  "methods": tuple(_ROWS),
  "bits": "2",
  "seeds": (0, 1, 2),
  "overrides": {
    name: {"method": "quped", "quped": own} for name, (_, own) in _ROWS.items()
  },
  "titles": {name: title for name, (title, _) in _ROWS.items()},
  "tune": {
    **b_femnist.FULL["tune"],
    "spaces": {name: _personalized.QUPED for name in _ROWS},
  },
}

SMALL = b_femnist.SMALL
