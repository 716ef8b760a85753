"""Every method with every loss: it trains, or is refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.blocks import distill, losses
from tests import tiny
from tests.methods.every import over

# Methods that exchange classes, or what is said of them.
OF_CLASSES = (
  "cfd", "cronus", "ds_fl", "fd", "fedbe", "fedcad", "fedftg", "fedgen",
  "fedgkt", "fedmd", "fedntd", "fedproto", "fedrod", "fedssd", "fedtgp",
  "fedzkt",
)  # fmt: skip
OTHERS = tuple(name for name in tiny.METHODS if name not in OF_CLASSES)
# Those that distil; the others have no use for a divergence.
DISTILLING = (
  "feddf", "fedgkd", "fedgkd_vote", "fedgkt", "fedkd", "fml", "quped",
)  # fmt: skip


def fail(*args, **kwargs):
  raise AssertionError("not this one")


def made_with(name, loss, **changes):
  """A method's programs in full precision; nothing is compiled."""
  federation = tiny.make_federation()
  kind = losses.TARGETS[loss]
  if kind != "classes":
    source, public = federation.source, federation.public
    assert public is not None

    def with_targets(pool):
      drawn = np.random.default_rng(0).normal(size=(len(pool.labels), 2))
      labels = drawn.astype(np.float32) if kind == "values" else drawn > 0
      return dataclasses.replace(pool, labels=labels)

    federation = dataclasses.replace(
      federation,
      source=with_targets(source),
      public=dataclasses.replace(public, source=with_targets(public.source)),
      num_classes=2,
    )
  settings = tiny.make_settings(
    name, len(tiny.COUNTS), bits=(32,), loss=loss, **changes
  )
  return tiny.assemble(settings, federation)


def trace(made):
  """Traces a round, and an evaluation after it."""
  simulation = made.simulation
  with jax.numpy_rank_promotion("raise"):
    simulation.program.jitted.eval_shape(
      simulation.shapes(False), jnp.int32(1), made.federation, made.population
    )


@over(OTHERS, fast=("fedavg", "quped"), slow=("ditto", "feddf"))
@pytest.mark.parametrize("loss", ["squared_error", "binary"])
def test_a_method_trains_with_targets_that_are_no_classes(
  name, loss, monkeypatch
):
  for of_classes in ("kl_divergence", "not_true_divergence"):
    monkeypatch.setattr(distill, of_classes, fail)
  monkeypatch.setattr(losses, "cross_entropy", fail)
  trace(made_with(name, loss))


@pytest.mark.parametrize("loss", ["squared_error", "binary"])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_method_of_classes_says_that_there_are_none(name, loss):
  with pytest.raises(
    ValueError,
    match=f"^loss: must be one over classes with method={name!r}: .*",
  ):
    made_with(name, loss)


@over(tiny.METHODS, fast=("fedavg",), slow=("fedgkt", "quped"))
def test_a_method_trains_with_another_loss_of_classes(name, monkeypatch):
  """And with cross entropy nowhere else: FedGKT's server has the loss too."""
  monkeypatch.setattr(losses, "cross_entropy", fail)
  trace(made_with(name, "focal"))


# FedRoD refuses smoothed labels, as its own tests say.
SMOOTHED = tuple(name for name in tiny.METHODS if name != "fedrod")


@over(SMOOTHED, fast=("fedavg",), slow=("fedgkt", "quped"))
def test_a_method_trains_with_smoothed_labels(name):
  trace(made_with(name, "cross_entropy", label_smoothing=0.1))


@over(DISTILLING, fast=("fml",))
def test_a_method_distils_by_the_divergence_of_its_training(name, monkeypatch):
  kl_divergence, make_losses = distill.kl_divergence, losses.make_losses
  calls = []

  def divergence(*args, **kwargs):
    calls.append(args)
    return kl_divergence(*args, **kwargs)

  def with_divergence(*args, **kwargs):
    return make_losses(*args, **kwargs)._replace(divergence=divergence)

  monkeypatch.setattr(losses, "make_losses", with_divergence)
  monkeypatch.setattr(distill, "kl_divergence", fail)
  trace(made_with(name, "focal"))
  assert calls
