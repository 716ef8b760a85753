"""Client types: which network and which precision each client has.

A federation of several types is written as "15*cnn1@1, 15*cnn1@2, 20*cnn2@32":
clients * network @ bits. Or each client gets a budget of bytes, and of some
candidates the largest that fits into it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax.models.mlp import DEFAULT_WIDTHS
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

# The name of the cohort of clients that all have the same network.
ONLY_COHORT = "clients"

_FULL_BYTES = 4  # A float32.

# A network by name, perhaps with widths: "mlp(64,64)", "cnn1(8,16,64)". Numbers
# have up to nine digits, so that an int32 holds them.
_WIDTHS = r"\s*[1-9]\d{0,8}\s*(?:,\s*[1-9]\d{0,8}\s*)*"
_NETWORK = rf"([A-Za-z_][\w-]*)\s*(?:\(({_WIDTHS})\))?"
_CLIENT_TYPE = re.compile(rf"(\d{{1,9}})\s*\*\s*{_NETWORK}\s*@\s*(\d{{1,9}})")
_BETWEEN = re.compile(r",(?![^(]*\))")  # A comma outside parentheses.


class Network(NamedTuple):
  """An architecture. Clients that share one form a cohort.

  Attributes:
    model: its name, see `quped_jax.models.create_model`.
    hidden: widths of its hidden layers, see `quped_jax.models.width_options`.
  """

  model: str
  hidden: tuple[int, ...] = ()

  def __str__(self) -> str:
    widths = ",".join(map(str, self.hidden))
    return f"{self.model}({widths})" if widths else self.model


def make_network(model: str, hidden: tuple[int, ...] = ()) -> Network:
  """The network; one name stands for default widths, given or not."""
  if model == "mlp" and not hidden:
    hidden = DEFAULT_WIDTHS
  return Network(model, tuple(hidden))


class ClientType(NamedTuple):
  """A network at a precision.

  Attributes:
    network: its architecture.
    bits: its precision, 1 to 8 or 32.
    turn: index of its entry where settings give a step size per precision.
  """

  network: Network
  bits: int
  turn: int = 0

  def __str__(self) -> str:
    return f"{self.network}@{self.bits}"


class Assignment(NamedTuple):
  """Which type every client is of.

  Attributes:
    client_types: all types.
    of_client: each client's type, int32 `[clients]`, an index into
      `client_types`; held-out clients come last.
    budgets: the bytes that each client's model may take, int64 `[clients]`;
      None if they are not limited.
  """

  client_types: tuple[ClientType, ...]
  of_client: np.ndarray
  budgets: np.ndarray | None = None

  @property
  def bits(self) -> np.ndarray:
    """Each client's precision, int32 `[clients]`."""
    bits = np.array([x.bits for x in self.client_types], np.int32)
    return bits[self.of_client]

  @property
  def quantized(self) -> bool:
    """Whether any client has less than full precision."""
    return bool(np.any(self.bits < codebook_lib.FULL_PRECISION))

  def per_client(self, values: Sequence) -> np.ndarray:
    """Each client's value, `[clients]`, of one value or one per precision."""
    turns = np.array([x.turn for x in self.client_types])[self.of_client]
    return np.asarray(values)[turns % len(values)]

  def cohorts(self) -> dict[Network, np.ndarray]:
    """{network: int32 ids of its clients}, of networks that clients have."""
    result = {}
    for network in dict.fromkeys(x.network for x in self.client_types):
      own = [i for i, x in enumerate(self.client_types) if x.network == network]
      ids = np.flatnonzero(np.isin(self.of_client, own)).astype(np.int32)
      if ids.size:
        result[network] = ids
    return result

  def cohort_names(self) -> dict[Network, str]:
    """Names of cohorts: their network's, or "clients" if there is only one."""
    networks = list(self.cohorts())
    if len(networks) == 1:
      return {networks[0]: ONLY_COHORT}
    return {network: str(network) for network in networks}

  def members(self) -> dict[str, np.ndarray]:
    """{name of a cohort: int32 ids of its clients}."""
    names = self.cohort_names()
    return {names[network]: ids for network, ids in self.cohorts().items()}

  def first(self, clients: int) -> "Assignment":
    """The assignment of the first clients alone."""
    budgets = None if self.budgets is None else self.budgets[:clients]
    return Assignment(self.client_types, self.of_client[:clients], budgets)

  def labels(self) -> list[str]:
    """The type of each client, as text."""
    return [str(self.client_types[i]) for i in self.of_client]


def _network(name: str, widths: str | None) -> Network:
  found = re.findall(r"\d+", widths or "")
  return make_network(name, tuple(int(width) for width in found))


def parse_networks(field: str, text: str) -> tuple[Network, ...]:
  """Reads a list of networks, such as "mlp(32,32), mlp(64,64), cnn1".

  Args:
    field: the field that errors name.
    text: the list.

  Raises:
    ValueError: a part that is no network.
  """
  networks = []
  for part in _BETWEEN.split(text):
    match = re.fullmatch(_NETWORK, part.strip())
    if match is None:
      raise ValueError(
        f"{field}={text!r}: must be networks such as 'cnn1, mlp(64,64)'; got "
        f"{part.strip()!r}"
      )
    networks.append(_network(*match.groups()))
  return tuple(networks)


def parse_client_types(
  text: str,
) -> tuple[tuple[ClientType, ...], tuple[int, ...]]:
  """Reads client types, such as "15*cnn1@1, 20*mlp(32,32)@32".

  Returns:
    The types, and the number of clients of each.

  Raises:
    ValueError: a part that does not have this form.
  """
  client_types, counts = [], []
  for turn, part in enumerate(_BETWEEN.split(text)):
    match = _CLIENT_TYPE.fullmatch(part.strip())
    if match is None:
      raise ValueError(
        f"client_types={text!r}: must be clients*network@bits, separated by "
        f"commas, such as '15*cnn1@1, 20*mlp(32,32)@32'; got {part.strip()!r}"
      )
    count, name, widths, bits = match.groups()
    if int(count) < 1:
      raise ValueError(
        f"client_types={text!r}: must have at least 1 client of each type; "
        f"got {part.strip()!r}"
      )
    codebook_lib.check_bits(int(bits))
    client_types.append(ClientType(_network(name, widths), int(bits), turn))
    counts.append(int(count))
  return tuple(client_types), tuple(counts)


def assign_in_turn(
  client_types: Sequence[ClientType], clients: int
) -> Assignment:
  """Gives the client types to the clients in turn."""
  of_client = np.arange(clients, dtype=np.int32) % len(client_types)
  return Assignment(tuple(client_types), of_client)


def assign_counts(
  client_types: Sequence[ClientType],
  counts: Sequence[int],
  held_out_clients: int = 0,
) -> Assignment:
  """Gives each type to a number of clients; held-out clients take turns.

  Args:
    client_types: all types.
    counts: number of clients of each.
    held_out_clients: number of held-out clients.
  """
  of_client = np.concatenate(
    [
      np.repeat(np.arange(len(client_types)), counts),
      np.arange(held_out_clients) % len(client_types),
    ]
  )
  return Assignment(tuple(client_types), of_client.astype(np.int32))


def draw_budgets(budgets: Sequence[int], clients: int, seed: int) -> np.ndarray:
  """Draws a budget for each client, uniformly from these: int64 `[clients]`."""
  drawn = np.random.default_rng([seed, 0xB0D6E7]).choice(budgets, clients)
  return np.asarray(drawn, np.int64)


def assign_by_budget(
  budgets: np.ndarray, sizes: Mapping[ClientType, int]
) -> Assignment:
  """Gives each client the largest type whose model its budget allows.

  Of types of the same size it is the one with more bits.

  Args:
    budgets: of each client, in bytes, int64 `[clients]`.
    sizes: bytes of a packed model of each client type.

  Raises:
    ValueError: a budget that is too small for any of the types.
  """
  order = sorted(
    sizes, key=lambda client_type: (sizes[client_type], client_type.bits)
  )
  steps = np.array([sizes[client_type] for client_type in order])
  smallest = order[0]
  if budgets.min() < steps[0]:
    raise ValueError(
      f"budget_bytes={int(budgets.min())}: must be at least {steps[0]}, the "
      f"size of {smallest}, the smallest of {len(order)} candidates"
    )
  chosen = np.searchsorted(steps, budgets, side="right") - 1
  return Assignment(tuple(order), chosen.astype(np.int32), budgets)


def model_bytes(
  params: Any,
  stats: Any,
  is_quantized: Callable[[str], bool],
  bits: int,
  *,
  channelwise: bool = False,
) -> int:
  """Size of a model as it would be stored, in bytes.

  A quantized tensor takes `bits` bits for each weight, rounded up to whole
  bytes, and a float32 for each level; everything else is float32.

  Args:
    params: arrays, or their shapes and types.
    stats: batch-norm statistics, likewise.
    is_quantized: `path of a parameter -> whether it is quantized`.
    bits: 1 to 8, or 32 for full precision.
    channelwise: whether every entry of the last axis has its own levels.
  """
  total = sum(_FULL_BYTES * x.size for x in jax.tree.leaves(stats))
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  for path, x in leaves:
    if bits == codebook_lib.FULL_PRECISION or not is_quantized(
      codebook_tree.path_name(path)
    ):
      total += _FULL_BYTES * x.size
      continue
    books = x.shape[-1] if channelwise else 1
    total += -(-x.size * bits // 8) + _FULL_BYTES * books * 2**bits
  return total
