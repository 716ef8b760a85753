import pytest

from quped_jax.experiment import method_facts
from quped_jax.experiment.method_facts import facts


@pytest.mark.slow
def test_what_fedavg_is():
  found = facts("fedavg")
  assert found.idea == (
    "the server averages the models that clients train from its own"
  )
  assert (found.down, found.up) == (("model",), ("model",))
  assert (found.size_down, found.size_up) == (1.0, 1.0)
  assert (found.variants, found.primary) == (("global",), "global")
  assert (found.networks, found.public) == (False, "")
  assert found.quantized and found.robust and found.clipped and found.private
  assert found.compressed


@pytest.mark.slow
def test_what_others_are():
  fedmd = facts("fedmd")
  assert (fedmd.public, fedmd.networks) == ("labels", True)
  assert not fedmd.private and fedmd.robust and not fedmd.clipped
  assert fedmd.variants == ("personalized", "quantized")
  assert (fedmd.down, fedmd.up) == (("targets",), ("outputs",))
  assert 0 < fedmd.size_up < 0.5
  assert facts("feddf").public == "samples"
  scaffold = facts("scaffold")
  assert scaffold.up == ("model", "control") and scaffold.size_up == 2.0
  assert not facts("apfl").quantized
  local = facts("local")
  assert local.down == local.up == () and local.networks
  # Only known to share less than a model where there is normalisation.
  fedbn = facts("fedbn")
  assert fedbn.down == ("shared part",) and 0.9 < fedbn.size_down < 1


def test_an_unknown_method_is_named():
  with pytest.raises(ValueError, match="method='nosuch': must be one of"):
    method_facts.facts("nosuch")
