"""What a run records for its figures, after each evaluation.

A record says how scores are spread over clients, and how the weights of a few
tensors of one client lie around their levels: the picture that explains the
method. It is small, and costs little: of the client's tensors alone a sample
leaves the devices.

Records are part of a run's progress, so that a run that was interrupted goes on
with those of its checkpoint.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import kinds
from quped_jax.experiment.assemble import Assembly
from quped_jax.methods.blocks.averaging import Levels
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.alternating import Learner
from quped_jax.quantization.codebook import Codebook
from quped_jax.simulation import processes
from quped_jax.simulation.layout import fetch
from quped_jax.simulation.state import SimulationState

# Of scores over clients.
PERCENTILES = (10, 25, 50, 75, 90)
# Of a histogram of weights.
_BINS = 80
# How far one of equal weights reaches to both sides.
_LEAST = 1e-3
# Weights of a tensor that are looked at, and evaluations after which they are.
_MOST_WEIGHTS, _MOST_LOOKS = 2**16, 50

_NUMBER = kinds.number()
RECORD = kinds.record(
  {
    "round": kinds.whole(),
    "scores": kinds.table(kinds.row(*[_NUMBER] * len(PERCENTILES))),
    "client": kinds.whole(),
    "tensors": kinds.table(
      kinds.record(
        {
          "low": _NUMBER,
          "high": _NUMBER,
          "counts": kinds.entries(kinds.whole()),
          "levels": kinds.entries(_NUMBER),
        },
        others=False,
      )
    ),
  },
  missing=("client", "tensors"),
  others=False,
)


class _Tensor(NamedTuple):
  """A quantized tensor, of all clients of a cohort.

  Attributes:
    weights: `[slots, ...]`; or the server's, which all share.
    codebook: `[slots, ...]`.
    shared: whether the weights are the server's.
  """

  weights: Any
  codebook: Codebook
  shared: bool


class Recorder:
  """Records what the figures of a run need.

  The weights are those of the first client of the lowest precision: in
  training, before they are quantized. Where all share one model they are the
  server's, around the levels of that client. Without quantized clients, and for
  methods that keep weights elsewhere, there are none.

  Args:
    made: the run.
    wanted: whether anything is recorded.
  """

  def __init__(self, made: Assembly, wanted: bool):
    self._made, self._wanted = made, wanted
    bits = made.assignment.bits[: made.settings.clients]
    self._client = int(np.argmin(bits))
    self._is_quantized = bool(bits.min() < codebook_lib.FULL_PRECISION)
    self._cohort = next(
      cohort
      for cohort, (_, members) in made.cohorts().items()
      if self._client in members
    )

  def begun(self, state: Callable[[], SimulationState]) -> list[dict[str, Any]]:
    """The record of a run that begins; none if nothing is recorded.

    With several processes, all call this.

    Args:
      state: `() -> state`, where it begins.
    """
    if not self._wanted:
      return []
    now = state()
    return [self._with_tensors({"round": int(now.round), "scores": {}}, now)]

  def evaluated(
    self,
    state: Callable[[], SimulationState],
    round_: int,
    scores: Mapping[str, np.ndarray],
  ) -> list[dict[str, Any]]:
    """The record of an evaluation; none if nothing is recorded.

    With several processes, all call this.

    Args:
      state: `() -> state`, after the round.
      round_: its number, from 1.
      scores: {variant: float `[clients]`} on test data, NaN for a client that
        has none.
    """
    if not self._wanted:
      return []
    record = {"round": round_, "scores": _spread(scores)}
    if self._looks_at(round_):
      record = self._with_tensors(record, state())
    return [record]

  def _with_tensors(
    self, record: dict[str, Any], state: SimulationState
  ) -> dict[str, Any]:
    """The record, with the client's weights if any are quantized."""
    if not self._is_quantized:
      return record
    # The client is one process's, which tells the others.
    told = processes.exchange(self._tensors(state))
    tensors = next(filter(None, told), None)
    if tensors is None:
      return record
    return {**record, "client": self._client, "tensors": tensors}

  def _looks_at(self, round_: int) -> bool:
    """Whether weights are looked at: not more often than can be shown."""
    settings = self._made.settings
    evaluations = math.ceil(settings.rounds / settings.eval_every)
    every = math.ceil(evaluations / _MOST_LOOKS)
    number = math.ceil(round_ / settings.eval_every)
    return number % every == 0 or number in (1, evaluations)

  def _tensors(self, state: SimulationState) -> dict[str, Any]:
    """{name: histogram and levels} of some tensors of the client.

    Nothing if its state is another process's.
    """
    members = fetch(state.members[self._cohort])
    (places,) = np.nonzero(np.asarray(members) == self._client)
    found = _quantized(self._made, state, self._cohort)
    if not places.size or not found:
      return {}
    row = int(places[0])
    given = [_parts(tensor, row) for tensor in found.values()]
    # States in host memory or in files are not moved to a device for this.
    on_host = any(isinstance(x, np.ndarray) for x in jax.tree.leaves(given))
    sampled = _sampled if on_host else _sampled_there
    samples = jax.device_get(sampled(given))
    return {
      name: _histogram(*sample)
      for name, sample in zip(found, samples, strict=True)
    }


def _spread(scores: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
  """Percentiles over the clients that have a score, of each variant."""
  present = {name: values[~np.isnan(values)] for name, values in scores.items()}
  return {
    name: [_short(x) for x in np.percentile(values, PERCENTILES)]
    for name, values in present.items()
    if values.size
  }


def _short(x: Any) -> float:
  """A number with as many digits as float32 has."""
  return float(str(np.float32(x)))


def _quantized(
  made: Assembly, state: SimulationState, cohort: str
) -> dict[str, _Tensor]:
  """The first, the middle and the last quantized tensor of a cohort."""
  clients = state.clients[cohort]
  kinds_of_state = Learner, Levels
  nodes = jax.tree.leaves(
    clients, is_leaf=lambda node: isinstance(node, kinds_of_state)
  )
  owner = next((x for x in nodes if isinstance(x, kinds_of_state)), None)
  if isinstance(owner, Learner):
    params, shared = owner.params, False
  elif owner is not None and made.method.global_model is not None:
    params, shared = made.method.global_model(state.server, cohort)[0], True
  else:
    return {}
  tensors = {}

  def visit(path, codebook, weights):
    if isinstance(codebook, Codebook):
      name = codebook_tree.path_name(path)
      tensors[name] = _Tensor(weights, codebook, shared)

  jax.tree_util.tree_map_with_path(
    visit, owner.codebooks, params, is_leaf=codebook_tree.is_codebook
  )
  names = list(tensors)
  chosen = {0, len(names) // 2, len(names) - 1} if names else ()
  return {names[i]: tensors[names[i]] for i in sorted(chosen)}


def _parts(tensor: _Tensor, row: int) -> Any:
  """Where the client's weights and levels are: arrays, and its place in them.

  Of what is divided over devices, the part of one device.
  """
  codebook = tensor.codebook
  (centers, levels), place = _on_a_device(
    (codebook.centers, codebook.levels), row
  )
  if not tensor.shared:
    (weights,), _ = _on_a_device((tensor.weights,), row)
    return weights, centers, levels, place, None
  return None, centers, levels, place, _beside(tensor.weights, centers)


def _on_a_device(arrays: tuple[Any, ...], row: int) -> tuple[list[Any], Any]:
  """The device's parts of stacked arrays that have a row, and its place there.

  Args:
    arrays: `[slots, ...]` each, divided alike.
    row: among the slots of this process.
  """
  if isinstance(arrays[0], np.ndarray):
    return list(arrays), np.int32(row)
  parts = [
    sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    for x in arrays
  ]
  number, place = divmod(row, parts[0][0].data.shape[0])
  return [shards[number].data for shards in parts], np.int32(place)


def _beside(x: Any, other: Any) -> Any:
  """An array that all devices have, on the device of another."""
  if isinstance(other, np.ndarray):
    return x.addressable_shards[0].data
  (device,) = other.devices()
  return next(s.data for s in x.addressable_shards if s.device == device)


def _sampled(given: list[Any]) -> list[Any]:
  """A sample of a client's weights, and its levels, of each tensor.

  With levels for each channel, those of the first channel and its weights.
  """
  samples = []
  for own, centers, levels, place, shared in given:
    weights = shared if own is None else own[place]
    centers, levels = centers[place], levels[place]
    if centers.ndim > 1:
      weights, centers, levels = weights[..., 0], centers[0], levels[0]
    flat = weights.reshape(-1)
    # Odd: it visits all rows and columns of matrices of even size.
    step = -(-flat.size // _MOST_WEIGHTS) | 1
    samples.append((flat[::step], centers, levels))
  return samples


# Compiled once for all runs of the same tensors: the client is a number.
_sampled_there = jax.jit(_sampled)


def _histogram(
  weights: np.ndarray, centers: np.ndarray, levels: np.ndarray
) -> dict[str, Any]:
  """A tensor's histogram and its levels, as JSON values."""
  values = np.asarray(weights, np.float64)
  values = values[np.isfinite(values)]
  low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
  if low == high:
    margin = _LEAST * max(1.0, abs(low))
    low, high = low - margin, high + margin
  counts, _ = np.histogram(values, _BINS, (low, high))
  found = np.asarray(centers, np.float64)[: int(levels)]
  return {
    "low": _short(low),
    "high": _short(high),
    "counts": counts.tolist(),
    "levels": [_short(x) for x in found if np.isfinite(x)],
  }
