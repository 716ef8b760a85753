"""What the compiled programs of every registered method promise."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax.experiment.build_clients import build_clients, build_population
from quped_jax.experiment.settings import swept
from quped_jax.experiment.training import make_schedule
from tests import lowering, tiny
from tests.methods.every import (
  BLOCKS,
  CLIENTS,
  COHORT,
  EXCHANGES,
  equal,
  floats,
  over,
)


@over(
  tiny.METHODS,
  fast=("fedavg", "ditto", "feddf", "quped"),
  slow=("fd", "fedgkt"),
)
def test_other_clients_and_later_rounds_compile_nothing(name):
  made = tiny.tiny(name)
  state = made.play(1)
  traces, programs = made.traces.calls, made.simulation.program.compilations
  for _ in range(3):
    state, _ = made.simulation.run_round(state)
  # Precisions are part of the state, as codebooks: the clients swap them.
  state = tiny.change_codebooks(
    state, lambda book: jax.tree.map(lambda x: x[::-1], book)
  )
  population = made.population
  others = [
    population._replace(
      spec=population.spec._replace(bits=population.spec.bits[::-1])
    ),
    population._replace(
      rates=jax.tree.map(lambda x: 0.5 * x, population.rates)
    ),
    population._replace(shared_learning_rate=jnp.float32(0.01)),
  ]
  for other in others:
    state, _ = made.simulation.program(
      state, jnp.int32(1), made.federation, other
    )
  assert made.traces.calls == traces
  assert made.simulation.program.compilations == programs


# What else is traced, with values at which nothing is off.
NUMBERS: dict[str, Any] = {
  "learning_rate_decay": 0.9,
  "learning_rate_drops": (1,),
  "learning_rate_drop_factor": 0.5,
  "strength_drop_factor": 0.7,
  "centers_drops": (1,),
  "centers_drop_factor": 0.6,
  "centers_clip": 0.05,
}


def with_other_numbers(settings: qj.Settings) -> qj.Settings:
  """Other values of all numbers that are traced, the options' among them."""
  values = {k: 0.9 * x for k, x in swept.values_of(settings).items()}
  own = {k: x for k, x in values.items() if "." not in k}
  options = {k.partition(".")[2]: x for k, x in values.items() if k not in own}
  given = {**settings.method_options[settings.method], **options}
  return dataclasses.replace(
    settings, **own, method_options={settings.method: given}
  )


@over(tiny.METHODS, fast=(), slow=("ditto", "fedgen", "quped"))
def test_other_numbers_are_given_to_the_same_program(name):
  first = tiny.make_settings(name, CLIENTS, **NUMBERS, devices=1)
  settings = with_other_numbers(first)
  assert swept.program_of(first) == swept.program_of(settings)
  state = tiny.tiny(name).simulation.shapes(False)
  texts = [
    x.simulation.program.jitted.lower(
      state, jnp.int32(1), x.federation, x.population
    ).as_text()
    for x in map(tiny.assemble, (first, settings))
  ]
  assert texts[0] == texts[1]
  # LAPACK waits for threads: over several devices of a CPU, perhaps for ever.
  assert "lapack" not in texts[0]


@over(tiny.METHODS, fast=(), slow=("quped",))
def test_they_lead_to_what_they_lead_to_as_constants(name):
  first = tiny.make_settings(name, CLIENTS, **NUMBERS, devices=1)
  settings = with_other_numbers(first)
  start = tiny.to_host(tiny.tiny(name).state())
  double = jax.tree.map(
    lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, start
  )
  with jax.enable_x64(True):
    made, other = tiny.assemble(first), tiny.assemble(settings)
    population = build_population(settings)
    state, _ = made.simulation.program(
      tiny.from_host(double), jnp.int32(2), made.federation, population
    )
    model = build_clients(settings, other.federation).model
    constant = qj.make_simulation(
      tiny.make_method(settings, model, other.federation),
      other.federation,
      population._replace(values=()),
      {COHORT: np.arange(CLIENTS)},
      schedule=make_schedule(settings),
      strategy="chunks",
    )
    expected, _ = constant.run_rounds(tiny.from_host(double), 2)
    ends = [tiny.to_host(x) for x in (state, expected)]
    accuracy = [
      x.evaluate(tiny.from_host(ends[0]))["test"]
      for x in (other.simulation, constant)
    ]
  assert floats(ends[0].clients)
  most = 1e-8 if name in ("quped", "qupel") else 1e-9
  assert tiny.largest_difference(*ends) < most
  assert equal(*accuracy)


@over(tiny.METHODS, fast=EXCHANGES, slow=BLOCKS)
def test_rounds_lower_for_accelerators_in_their_forms(name):
  made = tiny.tiny(name)
  for platform in lowering.ACCELERATORS:
    text = lowering.rounds(made, platform)
    lowering.check_sums(text)
    if name in ("quped", "qupel"):
      # The sums of all levels at once, in the prox.
      assert lowering.joint_reductions(text, 4) >= 1


@over(tiny.METHODS, fast=(), slow=("quped",))
def test_rounds_of_all_clients_at_once_lower_for_accelerators(name):
  bits = tiny.CASES[name].bits
  made = tiny.tiny(
    name, bits=bits if bits == (32,) else tiny.BITS, strategy="vmap"
  )
  for platform in lowering.ACCELERATORS:
    lowering.check_sums(lowering.rounds(made, platform), CLIENTS)
