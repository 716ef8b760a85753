"""All methods side by side on digits: the preset of a comparison.

A comparison holds what `quped_jax.experiment.comparison.plan` says, and in
`tune` how `--tune` chooses settings.
"""

from typing import Any

from quped_jax.experiment.presets.bases import base_of
from quped_jax.experiment.presets.digits import DIGITS

# The others are compared with the first.
_METHODS = (
  "quped_labels",
  "quped",
  "local",
  "fedavg",
  "fedavg_ft",
  "fedprox",
  "fedprox_ft",
  "scaffold",
  "feddyn",
  "moon",
  "fedmlb",
  "scaffold_ft",
  "per_fedavg",
  "pfedme",
  "ditto",
  "apfl",
  "fedala",
  "fedrep",
  "fedper",
  "lg_fedavg",
  "fedbabu",
  "fedrod",
  "feddbe",
  "fml",
  "fedkd",
  "fedgkd",
  "fedgkd_vote",
  "fedntd",
  "fedcad",
  "fedssd",
  "fd",
  "fedproto",
  "fedtgp",
  "fedmd",
  "ds_fl",
  "cfd",
  "cronus",
  "feddf",
  "fedbe",
  "fedaux",
  "fedgkt",
  "fedgen",
  "fedftg",
  "fedzkt",
  "qupel",
)  # fedbn needs a network with normalisation, such as resnet20

# Variants of methods, under names of their own. QuPeD's global model learns
# from the clients' models, as in the paper, or from labels too.
_VARIANTS = {
  "quped": {"quped": {"global_loss": "distill"}},
  "quped_labels": {
    "method": "quped",
    "quped": {"global_loss": "distill+labels"},
  },
}

# Those that also run with quantized clients.
_QUANTIZED = (
  "quped_labels",
  "quped",
  "qupel",
  "local",
  "fedavg",
  "fedavg_ft",
  "per_fedavg",
  "pfedme",
  "ditto",
  "fml",
)


# What all runs share.
_BASE = base_of(
  DIGITS,
  clients=32,
  held_out_clients=8,  # take no part in training
  public_size=200,  # samples held out from all, for methods that need them
  rounds=30,
  eval_every=5,
)

# Step sizes of clients' own models, and of the shared ones beside them.
_RATES = {"learning_rate": (0.02, 0.05, 0.1, 0.2, 0.4)}
_BOTH_RATES = {**_RATES, "shared_learning_rate": (0.02, 0.05, 0.1, 0.2, 0.4)}
_DIGEST = {"digest_steps": (2, 5, 10)}

# Trials are drawn from these: step sizes, and what a method's paper tunes, its
# default among the values. No setting has more values than there are trials, so
# that each value is tried.
_SPACES = {
  "quped_labels": {**_BOTH_RATES, "quped": {"lambda_p": (0.25, 0.5, 0.75)}},
  "quped": {**_BOTH_RATES, "quped": {"lambda_p": (0.25, 0.5, 0.75)}},
  "qupel": {**_BOTH_RATES, "qupel": {"lambda_p": (0.1, 0.5, 2.0)}},
  "local": {"learning_rate": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)},
  "fedavg": {**_RATES, "fedavg": {"server_learning_rate": (0.5, 1.0, 1.5)}},
  "fedavg_ft": {**_RATES, "fedavg_ft": {"adapt_steps": (5, 10, -1)}},
  "fedprox": {**_RATES, "fedprox": {"mu": (0.01, 0.1, 1.0)}},
  "fedprox_ft": {
    **_RATES,
    "fedprox_ft": {"mu": (0.01, 0.1, 1.0), "adapt_steps": (5, 10, -1)},
  },
  "scaffold": {**_RATES, "scaffold": {"server_learning_rate": (0.5, 1.0)}},
  "feddyn": {**_RATES, "feddyn": {"alpha": (0.001, 0.01, 0.1)}},
  "moon": {**_RATES, "moon": {"mu": (0.1, 1.0, 5.0, 10.0)}},
  "fedmlb": {
    **_RATES,
    "fedmlb": {"lambda_1": (0.5, 1.0), "lambda_2": (0.5, 1.0)},
  },
  "scaffold_ft": {**_RATES, "scaffold_ft": {"adapt_steps": (5, 10, -1)}},
  "per_fedavg": {**_RATES, "per_fedavg": {"alpha": (0.01, 0.03, 0.1)}},
  "pfedme": {
    **_RATES,
    "pfedme": {"lambda_p": (5.0, 15.0), "eta": (0.02, 0.05)},
  },
  "ditto": {**_BOTH_RATES, "ditto": {"lambda_p": (0.1, 0.5, 1.0)}},
  "apfl": {**_BOTH_RATES, "apfl": {"alpha": (0.25, 0.5, 0.75)}},
  "fedala": {**_RATES, "fedala": {"weight_learning_rate": (0.3, 1.0, 3.0)}},
  "fedrep": {**_RATES, "fedrep": {"head_steps": (10, 0, 30)}},  # 0: half
  "fml": {**_BOTH_RATES, "fml": {"alpha": (0.3, 0.5, 0.7)}},
  "fedper": {**_RATES, "fedper": {"own_layers": (1, 2)}},
  "lg_fedavg": {**_RATES, "lg_fedavg": {"global_layers": (1, 2)}},
  "fedbabu": {**_RATES, "fedbabu": {"adapt_steps": (5, 10, -1)}},
  "fedrod": {**_RATES, "fedrod": {"gamma": (0.5, 1.0)}},
  "feddbe": {
    **_RATES,
    "feddbe": {"kappa": (0.1, 1.0, 10.0, 50.0), "momentum": (0.1, 1.0)},
  },
  "fedkd": _BOTH_RATES,
  "fedgkd": {**_RATES, "fedgkd": {"gamma": (0.1, 0.2, 0.5)}},
  "fedgkd_vote": {**_RATES, "fedgkd_vote": {"gamma": (0.1, 0.2, 0.5)}},
  "fedntd": {**_RATES, "fedntd": {"beta": (0.3, 1.0, 3.0)}},
  "fedcad": {**_RATES, "fedcad": {"strength": (0.1, 0.3, 1.0)}},
  "fedssd": {**_RATES, "fedssd": {"strength": (0.3, 1.0, 3.0)}},
  "fd": {**_RATES, "fd": {"gamma": (0.01, 0.1, 0.3)}},
  "fedproto": {**_RATES, "fedproto": {"weight": (0.1, 1.0, 4.0)}},
  "fedtgp": {
    **_RATES,
    "fedtgp": {"weight": (1.0, 10.0), "margin": (10.0, 100.0)},
  },
  "fedmd": {**_RATES, "fedmd": _DIGEST},
  "ds_fl": {**_RATES, "ds_fl": {**_DIGEST, "temperature": (0.1, 0.3)}},
  "cfd": {**_RATES, "cfd": {**_DIGEST, "bits_down": (1, 32)}},
  "cronus": {**_RATES, "cronus": {"average": ("median", "trimmed_mean")}},
  "feddf": {**_RATES, "feddf": {"distill_steps": (20, 50, 100)}},
  "fedbe": {
    **_RATES,
    "fedbe": {"distill_learning_rate": (1e-3, 1e-2), "spread": (0.1, 1.0)},
  },
  "fedaux": {
    **_RATES,
    "fedaux": {"distill_steps": (50, 100), "penalty": (0.01, 0.1)},
  },
  "fedgkt": {
    **_RATES,
    "fedgkt": {"weight": (0.3, 1.0), "temperature": (1.0, 3.0)},
  },
  "fedgen": {**_RATES, "fedgen": {"alpha": (0.1, 0.3, 1.0)}},
  "fedftg": {
    **_RATES,
    "fedftg": {
      "iterations": (5, 10),
      "distill_learning_rate": (0.01, 0.03, 0.1),
    },
  },
  "fedzkt": {
    **_RATES,
    "fedzkt": {"mu": (0.01, 0.1, 1.0), "transfer_steps": (0, 20, 50)},
  },
}

# The best of what `--tune` tried (experiments/results/compare_digits/tune.csv).
_TUNED = {
  "quped_labels_32": {
    "learning_rate": 0.05,
    "quped": {"lambda_p": 0.5},
    "shared_learning_rate": 0.02,
  },
  "quped_labels_1": {
    "learning_rate": 0.1,
    "quped": {"lambda_p": 0.75},
    "shared_learning_rate": 0.1,
  },
  "quped_32": {
    "learning_rate": 0.05,
    "quped": {"lambda_p": 0.5},
    "shared_learning_rate": 0.1,
  },
  "quped_1": {
    "learning_rate": 0.2,
    "quped": {"lambda_p": 0.25},
    "shared_learning_rate": 0.05,
  },
  "local_32": {"learning_rate": 0.4},
  "local_1": {"learning_rate": 0.2},
  "fedavg_32": {"fedavg": {"server_learning_rate": 1.0}, "learning_rate": 0.2},
  "fedavg_1": {"fedavg": {"server_learning_rate": 1.5}, "learning_rate": 0.1},
  "fedavg_ft_32": {"fedavg_ft": {"adapt_steps": 10}, "learning_rate": 0.4},
  "fedavg_ft_1": {"fedavg_ft": {"adapt_steps": -1}, "learning_rate": 0.4},
  "fedprox_32": {"fedprox": {"mu": 0.01}, "learning_rate": 0.2},
  "scaffold_32": {
    "learning_rate": 0.05,
    "scaffold": {"server_learning_rate": 1.0},
  },
  "per_fedavg_32": {"learning_rate": 0.1, "per_fedavg": {"alpha": 0.03}},
  "per_fedavg_1": {"learning_rate": 0.1, "per_fedavg": {"alpha": 0.03}},
  "pfedme_32": {
    "learning_rate": 0.05,
    "pfedme": {"eta": 0.05, "lambda_p": 5.0},
  },
  "pfedme_1": {"learning_rate": 0.02, "pfedme": {"eta": 0.05, "lambda_p": 5.0}},
  "ditto_32": {
    "ditto": {"lambda_p": 0.1},
    "learning_rate": 0.4,
    "shared_learning_rate": 0.4,
  },
  "ditto_1": {
    "ditto": {"lambda_p": 0.5},
    "learning_rate": 0.1,
    "shared_learning_rate": 0.4,
  },
  "apfl_32": {
    "apfl": {"alpha": 0.25},
    "learning_rate": 0.2,
    "shared_learning_rate": 0.2,
  },
  "fedrep_32": {"fedrep": {"head_steps": 30}, "learning_rate": 0.2},
  "fml_32": {
    "fml": {"alpha": 0.3},
    "learning_rate": 0.05,
    "shared_learning_rate": 0.1,
  },
  "fml_1": {
    "fml": {"alpha": 0.3},
    "learning_rate": 0.1,
    "shared_learning_rate": 0.4,
  },
  "fedkd_32": {"learning_rate": 0.02, "shared_learning_rate": 0.2},
  "fedgkd_32": {"fedgkd": {"gamma": 0.5}, "learning_rate": 0.4},
  "fedgkd_vote_32": {"fedgkd_vote": {"gamma": 0.1}, "learning_rate": 0.2},
  "fedntd_32": {"fedntd": {"beta": 3.0}, "learning_rate": 0.2},
  "fd_32": {"fd": {"gamma": 0.3}, "learning_rate": 0.4},
  "fedmd_32": {"fedmd": {"digest_steps": 2}, "learning_rate": 0.2},
  "ds_fl_32": {
    "ds_fl": {"digest_steps": 2, "temperature": 0.1},
    "learning_rate": 0.1,
  },
  "cfd_32": {"cfd": {"bits_down": 1, "digest_steps": 2}, "learning_rate": 0.1},
  "feddf_32": {"feddf": {"distill_steps": 50}, "learning_rate": 0.4},
  "fedgkt_32": {
    "fedgkt": {"temperature": 1.0, "weight": 1.0},
    "learning_rate": 0.1,
  },
  "fedgen_32": {"fedgen": {"alpha": 0.3}, "learning_rate": 0.1},
  "qupel_32": {
    "learning_rate": 0.4,
    "qupel": {"lambda_p": 0.5},
    "shared_learning_rate": 0.4,
  },
  "qupel_1": {
    "learning_rate": 0.02,
    "qupel": {"lambda_p": 0.5},
    "shared_learning_rate": 0.05,
  },
  "feddyn_32": {"feddyn": {"alpha": 0.1}, "learning_rate": 0.1},
  "moon_32": {"learning_rate": 0.2, "moon": {"mu": 0.1}},
  "fedmlb_32": {
    "fedmlb": {"lambda_1": 0.5, "lambda_2": 1.0},
    "learning_rate": 0.2,
  },
  "scaffold_ft_32": {"learning_rate": 0.02, "scaffold_ft": {"adapt_steps": -1}},
  "fedprox_ft_32": {
    "fedprox_ft": {"adapt_steps": 10, "mu": 0.1},
    "learning_rate": 0.1,
  },
  "fedper_32": {"fedper": {"own_layers": 1}, "learning_rate": 0.1},
  "lg_fedavg_32": {"learning_rate": 0.05, "lg_fedavg": {"global_layers": 2}},
  "fedbabu_32": {"fedbabu": {"adapt_steps": -1}, "learning_rate": 0.05},
  "fedala_32": {"fedala": {"weight_learning_rate": 3.0}, "learning_rate": 0.2},
  "fedrod_32": {"fedrod": {"gamma": 1.0}, "learning_rate": 0.05},
  "feddbe_32": {
    "feddbe": {"kappa": 10.0, "momentum": 1.0},
    "learning_rate": 0.2,
  },
  "fedproto_32": {"fedproto": {"weight": 1.0}, "learning_rate": 0.4},
  "fedtgp_32": {
    "fedtgp": {"margin": 10.0, "weight": 10.0},
    "learning_rate": 0.02,
  },
  "fedcad_32": {"fedcad": {"strength": 0.1}, "learning_rate": 0.4},
  "fedssd_32": {"fedssd": {"strength": 0.3}, "learning_rate": 0.2},
  "cronus_32": {"cronus": {"average": "trimmed_mean"}, "learning_rate": 0.02},
  "fedaux_32": {
    "fedaux": {"distill_steps": 100, "penalty": 0.1},
    "learning_rate": 0.2,
  },
  "fedbe_32": {
    "fedbe": {"distill_learning_rate": 0.001, "spread": 0.1},
    "learning_rate": 0.4,
  },
  "fedftg_32": {
    "fedftg": {"distill_learning_rate": 0.03, "iterations": 10},
    "learning_rate": 0.2,
  },
  "fedzkt_32": {
    "fedzkt": {"mu": 0.01, "transfer_steps": 50},
    "learning_rate": 0.05,
  },
}


COMPARE_DIGITS: dict[str, Any] = {
  "base": _BASE,
  "methods": _METHODS,
  # Rows with semicolons between them. Each is one precision for all clients, or
  # several, assigned to clients in turn: "32; 1,2,3,4,32".
  "bits": "32; 1",
  "seeds": (0, 1, 2),
  # {method, or method_bits: settings}, such as
  # {"fedavg": {"learning_rate": 0.1, "fedavg": {"weighting": "uniform"}}}.
  # "bits" restricts a method to some of the precisions; "method" makes the
  # entry a variant of that method, under a name of its own.
  "overrides": {
    **_VARIANTS,
    **{n: {"bits": "32"} for n in _METHODS if n not in _QUANTIZED},
    **_TUNED,
  },
  "tune": {
    "trials": 6,  # for every method and precision
    # How often trials are halved, and those that go on trained for twice as
    # many rounds: more are tried in as many rounds. 0 for never.
    "halving": 0,
    "seeds": (0,),
    "rounds": 20,
    "validation_fraction": 0.25,  # of each client's training samples
    # {method: {setting: values}}, from which each method's trials are drawn.
    "spaces": _SPACES,
  },
}
