"""What a run says, when it begins, of the tensors that it quantizes."""

import io

import rich.console

import quped_jax as qj
from quped_jax.experiment import quantized_tensors
from quped_jax.experiment.assemble import assemble
from tests import tiny

FEDERATION = tiny.make_federation(tiny.COUNTS)


def notes(**changes) -> list[str]:
  settings = qj.Settings(clients=5, **changes)
  return quantized_tensors.notes(assemble(settings, federation=FEDERATION))


def test_a_line_for_each_network_names_tensors_weights_and_bits():
  inputs = FEDERATION.example().size
  weights = sum((inputs * 8 + 8, 8 * 4 + 4, 4 * tiny.CLASSES + tiny.CLASSES))
  assert notes(hidden=(8, 4), bits=(1,)) == [
    f"quantized in mlp: hidden_1/kernel; 32 of {weights:,} weights (1 bit)"
  ]
  two = notes(client_types="2*mlp(8,4)@1, 1*mlp(8,4)@2, 2*mlp(8,8,8,8,8)@32")
  assert two[0].endswith(" weights (1, 2 bits)")
  assert two[1] == "quantized in mlp: nothing (32 bits)"


def test_of_many_tensors_the_first_and_the_last_are_named():
  (line,) = notes(hidden=(4,) * 6, bits=(2,))
  assert "5 tensors, hidden_1/kernel to hidden_5/kernel; 80 of " in line


def test_a_run_says_it_before_its_first_round():
  file = io.StringIO()
  settings = {"method": "local", "rounds": 1, "steps": 1, "bits": (32,)}
  qj.run(
    qj.Settings(clients=5, hidden=(4, 4), **settings),
    federation=FEDERATION,
    display=qj.Display(rich.console.Console(file=file)),
  )
  said = file.getvalue().splitlines()
  assert said[1] == "quantized in mlp: nothing (32 bits)"
  assert said[2].startswith("local: round 1/1: ")
