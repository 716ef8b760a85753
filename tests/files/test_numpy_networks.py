"""Forward passes with NumPy alone say what the library says."""

import numpy as np
import pytest

import quped_jax as qj
from quped_jax import models
from quped_jax.files import numpy_networks, numpy_reader
from tests.files.packed_files import (
  BUILT_IN,
  FOLLOWED,
  assert_close,
  info_of,
  samples_of,
  save_built_in,
  variables_of,
)

DEEP = [info_of(name, 2, (8, 8, 3)) for name in ("resnet20", "resnet32")]


@pytest.mark.parametrize(
  "info",
  [*BUILT_IN, *(pytest.param(info, marks=pytest.mark.long) for info in DEEP)],
  ids=lambda info: info.model,
)
def test_logits_are_the_librarys(info, tmp_path):
  path, samples = tmp_path / "model.safetensors", samples_of(info, 5)
  save_built_in(path, info)
  packed = numpy_reader.read(path)
  logits = numpy_networks.predict(packed, samples)
  assert_close(logits, qj.load_packed(path).predict(samples))
  # Whatever samples are seen with them.
  few = numpy_networks.predict(packed, samples, batch_size=2)
  assert_close(few, logits)


def test_all_of_the_packages_networks_are_there():
  own = [name for name in models.model_names() if models.is_built_in(name)]
  for name in own:
    numpy_networks.check_name({"model": name})
  tried = {info.model for info in (*BUILT_IN, *DEEP)}
  assert tried == set(own)


def test_samples_of_bytes_are_samples(tmp_path):
  info = info_of()
  qj.save_packed(tmp_path / "m", *variables_of(info), info, mean=99, std=50)
  packed = numpy_reader.read(tmp_path / "m")
  raw = np.random.default_rng(0).integers(0, 256, (3, 6), np.uint8)
  assert_close(
    numpy_networks.predict(packed, raw),
    numpy_networks.predict(packed, raw.astype(np.float32)),
  )


@pytest.mark.parametrize("shape", [(3, 7), (6,), (0, 6)])
def test_samples_that_do_not_fit_are_errors(shape, tmp_path):
  info = info_of()
  qj.save_packed(tmp_path / "m", *variables_of(info), info)
  packed = numpy_reader.read(tmp_path / "m")
  with pytest.raises(ValueError, match=r"inputs.shape=.*: must be \[samples"):
    numpy_networks.predict(packed, np.zeros(shape))


@pytest.mark.parametrize("back", [None, {"model": "mine", "options": {}}])
def test_a_network_that_is_not_known_is_refused_by_name(back, tmp_path):
  qj.save_packed(tmp_path / "m", *variables_of(FOLLOWED), FOLLOWED)
  packed = numpy_reader.read(tmp_path / "m")
  about = {**packed.about, "back": back}
  about |= {} if back else {"model": "mine"}
  with pytest.raises(ValueError, match="model='mine': must be one of mlp"):
    numpy_networks.predict(packed._replace(about=about), np.zeros((1, 6)))


def test_a_network_without_a_name_is_refused(tmp_path):
  qj.save_packed(tmp_path / "m", {"w": np.ones(3, np.float32)})
  with pytest.raises(ValueError, match="model=None: must be one of mlp"):
    numpy_networks.predict(numpy_reader.read(tmp_path / "m"), np.zeros((1, 3)))
