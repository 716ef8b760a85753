import pytest

from quped_jax.experiment import method_facts
from quped_jax.experiment.method_facts import facts


@pytest.mark.slow
def test_what_fedavg_is():
  found = facts("fedavg")
  assert found.idea == (
    "the server averages the models that clients train from its own"
  )
  assert (found.down, found.up) == (1.0, 1.0)
  assert (found.variants, found.primary) == (("global",), "global")
  assert (found.networks, found.public) == (False, "")
  assert found.quantized and found.median and found.clipped and found.private


@pytest.mark.slow
def test_what_others_are():
  fedmd = facts("fedmd")
  assert (fedmd.public, fedmd.networks) == ("labels", True)
  assert not fedmd.private and fedmd.median and not fedmd.clipped
  assert fedmd.variants == ("personalized", "quantized")
  assert 0 < fedmd.up < 0.5
  assert facts("feddf").public == "samples"
  assert facts("scaffold").down == 2.0
  assert not facts("apfl").quantized
  local = facts("local")
  assert local.down == local.up == 0 and local.networks
  # Only known to share less than a model where there is normalisation.
  assert 0.9 < facts("fedbn").down < 1


def test_an_unknown_method_is_named():
  with pytest.raises(ValueError, match="method='nosuch': must be one of"):
    method_facts.facts("nosuch")
