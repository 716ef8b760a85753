"""The description of the model in a packed file."""

import dataclasses

import jax
import numpy as np
import pytest

import quped_jax as qj
from tests.files.packed_files import (
  info_of,
  variables_of,
)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": 3}, "model=3: must be text"),
    ({"num_classes": 0}, "num_classes=0: must be a whole number, at least 1"),
    ({"num_classes": True}, "num_classes=True: must be a whole number"),
    ({"bits": 9}, "bits=9: must be from 1 to 8"),
    ({"bits": 2.0}, "bits=2.0: must be a whole number"),
    ({"client": -1}, "client=-1: must be a whole number, at least 0"),
    ({"granularity": "row"}, "granularity='row': must be one of"),
    ({"compute_dtype": "int8"}, "compute_dtype='int8': must be one of"),
    ({"input_shape": ()}, r"input_shape=\(\): must be a tuple of positive"),
    ({"input_shape": [6]}, r"input_shape=\[6\]: must be a tuple"),
    (
      {"input_shape": (6, 0)},
      r"input_shape=\(6, 0\): must be a tuple of posit",
    ),
    ({"input_shape": (2**20, 2**20)}, "must be of at most 2147483648 numbers"),
    ({"options": [1]}, r"options=\[1\]: must be a mapping"),
    ({"options": {"features": ((1,),)}}, "options=.*must be numbers, text"),
    ({"options": {"features": (1,) * 257}}, "at most 256 layers"),
    ({"options": {"blocks": 257}}, "at most 256 layers"),
    ({"options": {"dtype": "int8"}}, "without 'dtype', which follows"),
  ],
)
def test_a_description_that_cannot_be_is_an_error(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(info_of(), **changes)


@pytest.mark.parametrize(
  "changes",
  [
    {"input_shape": (2**20, 2**11)},
    {"options": {"features": (1,) * 256}},
    {"options": {"blocks": 256}},
  ],
)
def test_what_is_as_large_as_allowed_can_be_described(changes):
  info = dataclasses.replace(info_of(), **changes)
  assert all(getattr(info, name) == value for name, value in changes.items())


@pytest.mark.parametrize(("channels", "width"), [(1, 32), (3, 64)])
def test_the_channels_of_images_choose_the_widths(channels, width):
  info = info_of("cnn1", shape=(8, 8, channels))
  inputs = jax.ShapeDtypeStruct((1, 8, 8, channels), np.float32)
  params, _ = jax.eval_shape(info.create().init, jax.random.key(0), inputs)
  assert params["first"]["kernel"].shape == (5, 5, channels, width)


def test_a_description_makes_its_network_once():
  assert info_of().create() is info_of(bits=1, client=3).create()
  assert info_of(options={"features": (8,)}).create() is not info_of().create()
  with pytest.raises(ValueError, match="model='lenet': must be one of .*mlp"):
    info_of("lenet").create()
  with pytest.raises(ValueError, match="'bare', which takes no dtype"):
    info_of("bare", compute_dtype="bfloat16").create()
  half = info_of(compute_dtype="bfloat16")
  params, stats = variables_of(half)
  jaxpr = jax.make_jaxpr(lambda x: half.create().apply(params, stats, x, True))(
    np.ones((2, 6), np.float32)
  )
  assert "bf16" in str(jaxpr)


def test_a_name_that_is_registered_anew_is_another_network():
  def factory(width):
    return lambda classes, **_: qj.create_model(
      "mlp", classes, features=(width, 8)
    )

  made = []
  for width in (4, 5):
    qj.register_model("anew", factory(width))
    made.append(variables_of(info_of("anew"))[0]["first"]["kernel"].shape)
  assert made == [(6, 4), (6, 5)]
