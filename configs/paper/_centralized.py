"""The rows of the tables of one model on a whole dataset."""

_RATES = {"learning_rate": (0.005, 0.02, 0.05, 0.1)}
_LEVELS = {"centers_learning_rate": (1e-5, 1e-4, 1e-3)}
_STRENGTHS = {"strength": (1e-6, 1e-5, 1e-4)}
_TRAINED = "4; 2; 1"

# {name: (title, what it is, its space)}, of methods that train quantized.
_ROWS = {
  "soft": (
    "soft, levels learned",
    {"estimator": "soft"},
    {**_RATES, **_LEVELS, **_STRENGTHS},
  ),
  "soft_fixed": (
    "soft, levels fixed",
    {"estimator": "soft", "centers_learning_rate": (0.0,)},
    {**_RATES, **_STRENGTHS},
  ),
  "hard": (
    "hard, levels learned",
    {"estimator": "hard"},
    {**_RATES, **_LEVELS, **_STRENGTHS},
  ),
  "hard_fixed": (
    "hard, levels fixed",
    {"estimator": "hard", "centers_learning_rate": (0.0,)},
    {**_RATES, **_STRENGTHS},
  ),
  "ste": ("ste, levels learned", {"estimator": "ste"}, {**_RATES, **_LEVELS}),
  "ste_fixed": (
    "ste, levels fixed",
    {"estimator": "ste", "centers_learning_rate": (0.0,)},
    _RATES,
  ),
  "binaryrelax": (
    "BinaryRelax",
    {"estimator": "binaryrelax"},
    {**_RATES, "relax_growth": (10.0, 350.0, 1e4)},
  ),
  "parq": (
    "PARQ",
    {"estimator": "parq"},
    {**_RATES, "parq_steepness": (1.0, 10.0, 100.0)},
  ),
}
_WARM = ("soft", "hard", "ste", "parq")

# A step that changes nothing: the weights go to their nearest levels.
_ONCE = {
  "method": "local",
  "bits": _TRAINED,
  "rounds": 1,
  "epochs": 0,
  "steps": 1,
  "learning_rate": (0.0,),
  "centers_learning_rate": (0.0,),
  "strength": 0.0,
}

BASE = {
  "clients": 1,
  "partition": "iid",
  "epochs": 1,  # a round
  "batch_size": 64,
  "optimizer": "momentum",
  "centers_learning_rate": (1e-4,),
  "strength": 1e-5,  # times (epoch + 1)
}

TABLE = {
  "methods": (
    "full",
    "soft",
    "ste",
    "parq",
    "nearest_kmeans",
    "nearest_uniform",
    "hard",
    "binaryrelax",
    "soft_fixed",
    "hard_fixed",
    "ste_fixed",
    *(f"{name}_warm" for name in _WARM),
  ),
  "bits": _TRAINED,
  "seeds": (0, 1, 2),
  "overrides": {
    "full": {"method": "local", "bits": "32", "save_models": "clients"},
    "nearest_kmeans": {**_ONCE, "initial_levels": "kmeans"},
    "nearest_uniform": {**_ONCE, "initial_levels": "uniform"},
    **{name: {"method": "local", **own} for name, (_, own, _) in _ROWS.items()},
    **{f"{name}_warm": {"method": "local", **_ROWS[name][1]} for name in _WARM},
  },
  "titles": {
    "full": "full precision",
    "nearest_kmeans": "nearest levels, k-means, no training",
    "nearest_uniform": "nearest levels, uniform, no training",
    **{name: title for name, (title, _, _) in _ROWS.items()},
    **{f"{name}_warm": f"{_ROWS[name][0]}, warm start" for name in _WARM},
  },
  "warm": {
    name: "full_32"
    for name in (
      "nearest_kmeans",
      "nearest_uniform",
      *(f"{name}_warm" for name in _WARM),
    )
  },
  # What is chosen at 2 bits is taken at 4 bits and 1 bit, and for a warm start.
  "share": {
    **{f"{name}_{bits}": f"{name}_2" for name in _ROWS for bits in (4, 1)},
    **{
      f"{name}_warm_{bits}": f"{name}_2" for name in _WARM for bits in (4, 2, 1)
    },
  },
  "tune": {
    "halving": 0,
    "seeds": (0,),
    "validation_fraction": 0.1,
    "spaces": {
      "full": _RATES,
      **{name: space for name, (_, _, space) in _ROWS.items()},
    },
  },
}
