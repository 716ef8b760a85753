"""Random settings: each runs two rounds, or is refused by name.

A working config with some fields changed goes through the same entry points as
a user's: `experiments.common.get_settings`, or `Settings` itself, and `run`.
QUPED_LONG_TESTS=1 tries more of them, for hours on a slow machine.
"""

import collections
import dataclasses
import os
import re
import warnings
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import quped_jax as qj
from experiments import common
from quped_jax.data import sources
from quped_jax.methods import METHODS
from quped_jax.simulation.program import Program

LONG = os.environ.get("QUPED_LONG_TESTS") == "1"
NAN, INF = float("nan"), float("inf")
SAMPLES = 96
QUIET: dict[str, Any] = {
  "suppress_health_check": tuple(HealthCheck),
  "database": None,
}


def _flat(folder):
  del folder
  rng = np.random.default_rng(0)
  labels = np.arange(SAMPLES) % 4
  return qj.from_arrays(
    rng.normal(size=(SAMPLES, 6)) + labels[:, None],
    labels,
    num_classes=4,
    groups=np.arange(SAMPLES) // 8,
  )


def _images(folder):
  del folder
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (SAMPLES, 8, 8, 1)).astype(np.uint8)
  return qj.from_arrays(images, np.arange(SAMPLES) % 4, std=255.0)


@pytest.fixture(autouse=True, scope="module")
def datasets():
  before = dict(sources._LOADERS)
  qj.data.register_dataset("fuzz_flat", _flat)
  qj.data.register_dataset("fuzz_images", _images)
  yield
  sources._LOADERS.clear()
  sources._LOADERS.update(before)


# A working config: two rounds of a small federation.
BASE: dict[str, Any] = {
  "dataset": "fuzz_flat",
  "clients": 3,
  "partition": "iid",
  "rounds": 2,
  "steps": 2,
  "batch_size": 4,
  "hidden": (3, 3),
  "bits": (2,),
  "recalibration_batches": 1,
  "devices": 1,
  "method": "local",
}

# Values of the wrong type, out of range, or without meaning.
JUNK = (
  None, True, False, "", "x", "3", "\0", "nan", b"x", 1j,
  -1, 0, 1, 2, 3, 2**31, -(2**31), 2**63, 10**400, -(10**400),
  -1.5, -0.0, 0.5, 1.0, 1e-300, 5e-324, 1e39, 1e300, NAN, INF, -INF,
  (), [], (1,), [2], (1, 2), (0,), (-1,), (2**31,), (10**400,), (1e39,),
  (None,), ("a",), (NAN,), (INF,), (True,), ((1,),), [[1]], ([],), {}, {"a": 1},
  np.int64(2), np.float32(0.5), np.array(1), np.array([1, 2]), np.True_,
  np.array([[1]]), np.ma.masked, np.float64(NAN), [np.int8(1), 2], range(1, 3),
)  # fmt: skip

# Values that are allowed, but often conflict with each other.
CHOICES: dict[str, tuple[Any, ...]] = {
  "dataset": ("fuzz_flat", "fuzz_images", "synthetic", "digits"),
  "clients": (1, 2, 4, 12, 96, 97),
  "synthetic_shape": ((4,), (8, 8, 1), (8, 8, 3), (1, 1, 1), (2, 2), ()),
  "partition": (
    "iid", "pathological", "label_quantity", "dirichlet", "quantity", "shards",
    "natural",
  ),
  "classes_per_client": (1, 4, 5),
  "alpha": (0.01, 100.0, 1e-3, 1e9),
  "min_size": (1, 32, 33),
  "self_balancing": (True,),
  "feature_skew": ("noise", "rotation"),
  "feature_noise": (0.5, 1e30),
  "shards_per_client": (1, 32, 33),
  "groups_per_client": (1, 4, 5),
  "train_fraction": (0.01, 0.99),
  "validation_fraction": (0.01, 0.3, 0.99),
  "augment": ("none", "crop_flip"),
  "held_out_clients": (1, 2),
  "held_out_client_steps": (0, 1),
  "public_size": (1, 8, 95, 96),
  "public_dataset": ("fuzz_flat", "fuzz_images", "digits"),
  "public_labelled": (False,),
  "model": ("mlp", "cnn1", "resnet8", "transformer", "normed"),
  "hidden": ((), (3,), (3, 4, 3), (2, 1, 2, 1, 3)),
  "client_types": (
    "1*mlp(3,3)@1, 2*mlp(3,3)@32", "2*mlp(3,3)@1, 1*mlp(4,4)@2", "3*mlp(3)@1",
    "3*mlp(3)@32", "3*mlp@9", "3*cnn1(2,2)@32", "4*mlp@1", "0*mlp@1",
    "3*mlp(0)@1", "3*mlp(99999999999)@1", "99999999999*mlp@1", "3*mlp",
    "3*wrong@1", ",", f"3*mlp({'9' * 5000})@1",
  ),
  "budget_bytes": ((200,), (300, 1000), (10**9,)),
  "candidates": ("mlp(3,3)", "mlp(3,3), mlp(4,4)", "cnn1", "wrong", "mlp()"),
  "shared_model": ("mlp", "cnn1", "normed"),
  "shared_hidden": ((3, 3), (4,)),
  "conv": ("auto", "native", "shift"),
  "padding": ("same", "valid"),
  "compute_dtype": ("float32", "bfloat16"),
  "warm_start": ("/dev/null", "/", "/nowhere"),
  "method": tuple(sorted(METHODS)),
  "rounds": (1, 3),
  "steps": (1, 5),
  "epochs": (1, 2),
  "epochs_of": ("average", "each"),
  "budget": ("steps", "gradients"),
  "batch_size": (1, 16, 64),
  "loss": ("focal", "squared_error"),
  "metrics": (("loss",), "mae", ("accuracy", "macro_f1"), ("loss", "loss")),
  "label_smoothing": (0.1, 1.0),
  "focal_gamma": (0.0, 1e30),
  "clients_per_round": (1, 2, 3, 4),
  "participation": ((0.5,), (1.0, 0.1), (1e-30,)),
  "participation_trace": ("/dev/null", "/", "/nowhere"),
  "dropout": (0.5, 0.9999999999),
  "stragglers": (0.5, 1.0),
  "client_state": ("device", "host", "disk"),
  "clients_per_block": (1, 2),
  "bits": ((1, 32), (32,), (8,), (1, 2, 3), (1, 1)),
  "granularity": ("tensor", "channel"),
  "outer_level": (1.0, 1e-30, 3e38),
  "estimator": (
    "soft", "hard", "ste", "lsq", "binaryrelax", "parq", "proxquant",
  ),
  "initial_levels": ("range", "uniform", "lsbq", "lsq", "kmeans"),
  "anneal_start": (0.2, 0.75, 1.0),
  "anneal_end": (0.0, 0.1, 1.0),
  "anneal_rounds": (1, 100),
  "parq_steepness": (0.1, 1e3, 1e30),
  "relax_start": (1e-30, 3e38),
  "relax_growth": (1.0, 3e38, 0.1),
  "sharpness": (1e-3, 1e6, 1e38),
  "sharpness_unit": ("gap", "absolute"),
  "norm": ("l1", "l2"),
  "center_prox": ("exact", "subgradient"),
  "strength": (1.0, 1e30),
  "strength_ramp": (False,),
  "strength_drop_factor": (10.0,),
  "optimizer": ("momentum", "adam", "adamw"),
  "momentum": (0.0, 1.0),
  "weight_decay": (0.1, 1e30),
  "weight_clip": (1e-3, 1.0),
  "learning_rate": ((0.1, 0.2), (1e6,), (0.0,)),
  "learning_rate_decay": (0.5, 2.0, 1e-30),
  "learning_rate_drops": ((1,), (1, 5), (5, 1)),
  "learning_rate_drop_factor": (0.0, 1e30),
  "centers_optimizer": ("momentum", "adam", "adamw"),
  "centers_learning_rate": ((0.1, 0.2), (1e6,)),
  "centers_clip": (1e-30, 1e30),
  "centers_drops": ((1,), (1, 5), (5, 1)),
  "centers_drop_factor": (0.0,),
  "shared_optimizer": ("momentum", "adam"),
  "shared_learning_rate": (0.0, 1e6),
  "finetune_at": (1, 2),
  "finetune_centers_learning_rate": (0.0, 1.0),
  "recalibration_batches": (0, 2),
  "eval_every": (1, 2, 7),
  "strategy": ("vmap", "chunks", "dispatch"),
  "chunk_size": (1, 2, 100),
  "devices": (0, 1, 2, 1000),
  "rounds_per_dispatch": (1, 2, 100),
  "deterministic": (True,),
  "figures": (False,),
  "compression": ("qsgd", "uniform", "topk", "sign"),
  "compression_bits": (2, 8, 9),
  "compression_norm": ("l2",),
  "compression_share": (1e-9, 0.5, 1.0),
  "error_feedback": ("on", "off"),
  "aggregation": (
    "median", "trimmed_mean", "krum", "multi_krum", "bulyan",
    "geometric_median", "norm_clipped_mean",
  ),
  "assumed_byzantine": (0, 1, 2),
  "krum_clients": (0, 1, 3, 100),
  "trim": (0.0, 0.4, 0.5),
  "clip_norm": (1e-3, 1e30),
  "byzantine_clients": (1, 2, 3),
  "attack": ("random", "sign_flip"),
  "attack_scale": (1.0, 1e30),
  "dp_clip": (1.0, 1e-30),
  "dp_noise": (0.1, 1.0),
  "dp_delta": (0.5, 1e-30),
  "on_divergence": ("raise",),
  "max_message_norm": (1e-3, 1e30),
  "checkpoint_every": (1, 2),
  "checkpoint_minutes": (0.0, 1e-9),
  "keep_checkpoints": (1,),
  "save_models": ("clients",),
}  # fmt: skip

# Without these fields, what is drawn compiles in seconds.
SLOW = ("model", "client_types", "candidates", "shared_model", "bits", "method")
CHEAP = {field: CHOICES[field] for field in CHOICES if field not in SLOW}

OPTIONS = {
  f"{name}.{field.name}": field
  for name, entry in METHODS.items()
  for field in dataclasses.fields(entry.options)
}
FIELDS = tuple(
  f.name for f in dataclasses.fields(qj.Settings) if f.name != "method_options"
)
# Names that an error message may begin with.
KNOWN = {*FIELDS, *METHODS, *OPTIONS, "method_options"}


def test_the_choices_are_of_fields_that_exist():
  # Where data is stored and which seed is used make nothing invalid.
  assert set(CHOICES) == set(FIELDS) - {"data_dir", "seed"}


class CompilesError(Exception):
  """A program is about to be compiled, so the settings were found valid."""


@st.composite
def changes(draw, choices=CHOICES, junk=JUNK, most=3):
  """New values for one to three settings or options of methods."""
  values: dict[str, Any] = {}
  if draw(st.booleans()):
    values["method"] = draw(st.sampled_from(sorted(METHODS)))
    values["public_size"] = draw(st.sampled_from([0, 8]))
  for _ in range(draw(st.integers(1, most))):
    if junk and draw(st.integers(0, 3)) == 0:
      method, option = draw(st.sampled_from(sorted(OPTIONS))).split(".")
      values["method"] = method
      values[method] = {option: draw(st.sampled_from(junk))}
    elif junk and draw(st.booleans()):
      values[draw(st.sampled_from(FIELDS))] = draw(st.sampled_from(junk))
    else:
      field = draw(st.sampled_from(sorted(choices)))
      values[field] = draw(st.sampled_from(choices[field]))
  if values.get("model", "mlp") != "mlp":
    values.setdefault("hidden", ())
  return values


def make(values, directly):
  """Settings from a config, or made directly as in a program."""
  values = BASE | values
  if not directly:
    return common.get_settings(ml_collections.ConfigDict(values))
  return qj.Settings(**values)


def attempt(values, directly, workdir=None):
  """The message of a run's error; None if the run finished."""
  with warnings.catch_warnings():
    # Warnings of a loss that is not finite and the like are expected here.
    warnings.simplefilter("ignore")
    try:
      made = make(values, directly)
      qj.run(made, workdir, display=qj.Display(quiet=True), resume=False)
    except ValueError as error:
      return str(error)
    except (CompilesError, qj.DivergenceError):
      pass
  return None


def check(values, directly, outcomes, workdir=None):
  note(f"{values}")
  message = attempt(values, directly, workdir)
  outcomes["run" if message is None else "refused"] += 1
  if message is not None:
    found = re.match(r"([A-Za-z_][\w.]*)[=:\[]", message)
    assert found is not None and found[1] in KNOWN, message


def test_random_settings_are_found_valid_or_refused_by_name(monkeypatch):
  """Errors come before anything is compiled."""

  def compile_(self, args):
    raise CompilesError

  monkeypatch.setattr(Program, "_compile", compile_)
  outcomes = collections.Counter()

  @given(changes(), st.booleans())
  @settings(
    deadline=None,
    max_examples=4000 if LONG else 150,
    derandomize=not LONG,
    **QUIET,
  )
  def play(values, directly):
    check(values, directly, outcomes)

  play()
  assert min(outcomes["run"], outcomes["refused"]) > 15, outcomes


@pytest.mark.slow
def test_random_settings_run_two_rounds_or_are_refused(tmp_path):
  outcomes = collections.Counter()
  drawn = changes() if LONG else changes(CHEAP, (), 2)

  @given(drawn, st.booleans())
  @settings(
    deadline=None, max_examples=1200 if LONG else 6, derandomize=True, **QUIET
  )
  def play(values, directly):
    check(values, directly, outcomes, tmp_path)
    if LONG and outcomes["run"] % 20 == 19:
      jax.clear_caches()  # See tests/conftest.py.

  play()
  print(dict(outcomes))
  assert outcomes["run"] >= 3, outcomes
