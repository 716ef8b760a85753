"""Suite `methods`: a round of every method on the digits, as in the demo.

The federation of `configs/digits.py`, 40 clients of 40 steps, on all devices.
Every method at 32 bits and at 1 bit, relative to FedAvg at 32 bits; and QuPeD
with mixed bits beside QuPeD with uniform bits. Each row also has the bytes that
one client receives and sends per round. Methods that refuse this network or
quantized clients are left out; a note names each with its reason.
"""

import quped_jax as qj
from configs import digits
from experiments import common
from experiments.benchmarks import engine
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.timing import Contestant
from quped_jax.experiment.build_data import build_federation
from quped_jax.methods import METHODS
from quped_jax.quantization.codebook import describe_bits

_MIXED = (1, 2, 3, 4, 32)
_FEW = ("apfl", "fedavg", "quped")


def run(bench: Bench) -> None:
  """Measures the suite."""
  config = digits.get_config()
  config.update({"public_size": 200})
  if bench.quick:
    config.update({"clients": 8, "steps": 2})
  federation = build_federation(common.get_settings(config))

  def contestant(name: str, method: str, bits: tuple[int, ...]):
    config.update({"method": method, "bits": bits})
    simulation, _, _ = qj.build(
      common.get_settings(config), federation=federation
    )
    details = {
      "method": method,
      "bits": list(bits),
      "bytes_down": simulation.bytes_down,
      "bytes_up": simulation.bytes_up,
    }
    return Contestant(name, engine.Rounds(simulation), 1, details=details)

  sizes = {
    "clients": config.clients,
    "steps": config.steps,
    "batch": config.batch_size,
  }
  contestants, left_out = [], {}
  for method in _FEW if bench.quick else sorted(METHODS):
    for bits in (32, 1):
      name = f"{method}, {describe_bits([bits])}"
      try:
        contestants.append(contestant(name, method, (bits,)))
      except ValueError as error:
        left_out[name] = {"reason": str(error)}
  rows = bench.measure(
    "methods on digits",
    "round",
    contestants,
    sizes=sizes,
    reference="fedavg, 32 bits",
  )
  traffic = {
    name: {way: row["sizes"][way] for way in ("bytes_down", "bytes_up")}
    for name, row in rows.items()
  }
  bench.derive("traffic of a client in a round", traffic)
  if left_out:
    bench.derive("left out", left_out)
  bench.measure(
    "QuPeD's bits on digits",
    "round",
    [
      contestant("uniform, 1 bit", "quped", (1,)),
      contestant("uniform, 4 bits", "quped", (4,)),
      contestant("mixed, 1, 2, 3, 4, 32 bits", "quped", _MIXED),
    ],
    sizes=sizes,
    reference="uniform, 4 bits",
  )
