"""(e) Ablations of QuPeD at 2 bits on FEMNIST: one change each.

All rows have the settings that were chosen for the first. Only estimators are
tuned for themselves, since their gradients are of other sizes; `a_mnist` and
`a_cifar10` have more of them.
"""

from configs.paper import _personalized, b_femnist

# So that it matters what the pull to the levels is.
_STRONGER = {"strength": 1e-3}

# {name: (title, what is changed)}.
_CHANGES = {
  "lambda_0": ("lambda_p = 0", {"quped": {"lambda_p": 0.0}}),
  "lambda_25": ("lambda_p = 0.25", {"quped": {"lambda_p": 0.25}}),
  "lambda_50": ("lambda_p = 0.5", {"quped": {"lambda_p": 0.5}}),
  "lambda_100": ("lambda_p = 1", {"quped": {"lambda_p": 1.0}}),
  "labels": (
    "global model learns from labels too",
    {"quped": {"global_loss": "distill+labels"}},
  ),
  "cold": ("temperature 1", {"quped": {"temperature": 1.0}}),
  "hot": ("temperature 5", {"quped": {"temperature": 5.0}}),
  "teacher": (
    "temperature on the teacher alone",
    {"quped": {"temperature_on": "teacher"}},
  ),
  "no_pull": ("strength 0", {"strength": 0.0}),
  "stronger": ("a hundred times the strength", _STRONGER),
  "no_ramp": (
    "a hundred times the strength, constant",
    {**_STRONGER, "strength_ramp": False},
  ),
  "l2": (
    "a hundred times the strength, l2 instead of l1",
    {**_STRONGER, "norm": "l2"},
  ),
  "subgradient": (
    "a hundred times the strength, subgradient step of the levels",
    {**_STRONGER, "center_prox": "subgradient"},
  ),
  "fixed": ("fixed levels", {"centers_learning_rate": (0.0,)}),
  "fast_levels": (
    "levels learn ten times as fast",
    {"centers_learning_rate": (1e-3,)},
  ),
  "ste": ("estimator ste", {"estimator": "ste"}),
  "parq": ("estimator parq", {"estimator": "parq"}),
  "soft": ("sharpness 5", {"sharpness": 5.0}),
  "sharp": ("sharpness 20", {"sharpness": 20.0}),
  "half_steps": (
    "half the local steps, twice the rounds",
    {"steps": 10, "rounds": 100},
  ),
  "twice_steps": (
    "twice the local steps, half the rounds",
    {"steps": 40, "rounds": 25},
  ),
}
_ESTIMATORS = ("ste", "parq")

FULL = {
  "base": b_femnist.BASE,
  "methods": ("quped", *_CHANGES),
  "bits": "2",
  "seeds": (0, 1, 2),
  "overrides": {
    name: {"method": "quped", **own} for name, (_, own) in _CHANGES.items()
  },
  "titles": {name: title for name, (title, _) in _CHANGES.items()},
  "share": {
    f"{name}_2": "quped_2" for name in _CHANGES if name not in _ESTIMATORS
  },
  "tune": {
    **b_femnist.FULL["tune"],
    "spaces": {name: _personalized.QUPED for name in ("quped", *_ESTIMATORS)},
  },
}

SMALL = {
  **b_femnist.SMALL,
  "overrides": {
    "half_steps": {"steps": 5, "rounds": 32},
    "twice_steps": {"steps": 20, "rounds": 8},
  },
}
