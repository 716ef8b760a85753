"""With what a run was computed."""

import json
import platform

import jax
import optax

from quped_jax import version
from quped_jax.experiment import environment


def test_versions_and_devices():
  found = environment.here()
  assert found["python"] == platform.python_version()
  assert found["quped_jax"] == version.__version__
  assert found["jax"] == jax.__version__
  assert found["optax"] == optax.__version__
  assert found["device"] == jax.devices()[0].device_kind
  assert found["devices"] == jax.device_count()
  assert found["processes"] == 1
  assert json.loads(json.dumps(found)) == found
