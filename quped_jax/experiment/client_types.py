"""Client types: which network and which precision each client has.

A federation of several types is written as "15*cnn1@1, 15*cnn1@2, 20*cnn2@32":
so many clients of this network at so many bits. Or each client gets a budget
of bytes, and the largest of some candidates that fits.
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

# A network by name and, if it is an "mlp", perhaps widths: "mlp(64,64)".
# Of numbers of up to nine digits, which int32 holds.
_WIDTHS = r"\s*[1-9]\d{0,8}\s*(?:,\s*[1-9]\d{0,8}\s*)*"
_NETWORK = rf"([A-Za-z_][\w-]*)\s*(?:\(({_WIDTHS})\))?"
_CLIENT_TYPE = re.compile(rf"(\d{{1,9}})\s*\*\s*{_NETWORK}\s*@\s*(\d{{1,9}})")
_BETWEEN = re.compile(r",(?![^(]*\))")  # A comma outside parentheses.


class Network(NamedTuple):
  """An architecture, by which clients form cohorts.

  Attributes:
    model: its name, see `quped_jax.models.create_model`.
    hidden: widths of the hidden layers of "mlp".
  """

  model: str
  hidden: tuple[int, ...] = ()

  def __str__(self) -> str:
    widths = ",".join(map(str, self.hidden))
    return f"{self.model}({widths})" if widths else self.model


def make_network(model: str, hidden: tuple[int, ...] = ()) -> Network:
  """A network, by the same name whether or not its widths are the default."""
  if model == "mlp" and not hidden:
    hidden = DEFAULT_WIDTHS
  return Network(model, tuple(hidden))


class ClientType(NamedTuple):
  """A network at a precision.

  Attributes:
    network: its architecture.
    bits: its precision, 1 to 8 or 32.
    turn: which entry of the settings' per-precision step sizes is its own.
  """

  network: Network
  bits: int
  turn: int = 0

  def __str__(self) -> str:
    return f"{self.network}@{self.bits}"


class Assignment(NamedTuple):
  """Which type every client is of.

  Attributes:
    client_types: all of them.
    of_client: int32 `[clients]`, index into `client_types`; held-out clients
      come last.
    budgets: int64 `[clients]`, the bytes that each client's model may take;
      None if they are not limited.
  """

  client_types: tuple[ClientType, ...]
  of_client: np.ndarray
  budgets: np.ndarray | None = None

  @property
  def bits(self) -> np.ndarray:
    """int32 `[clients]`."""
    return np.array([k.bits for k in self.client_types], np.int32)[
      self.of_client
    ]

  @property
  def quantized(self) -> bool:
    """Whether any client has less than full precision."""
    return bool(np.any(self.bits < codebook_lib.FULL_PRECISION))

  def per_client(self, values: Sequence) -> np.ndarray:
    """Gives values, one or one per precision, to the clients."""
    turns = np.array([client_type.turn for client_type in self.client_types])[
      self.of_client
    ]
    return np.asarray(values)[turns % len(values)]

  def cohorts(self) -> dict[Network, np.ndarray]:
    """The clients of each network, those that there are."""
    networks = dict.fromkeys(
      client_type.network for client_type in self.client_types
    )
    ids = {
      network: np.flatnonzero(
        np.isin(
          self.of_client,
          [
            i
            for i, client_type in enumerate(self.client_types)
            if client_type.network == network
          ],
        )
      ).astype(np.int32)
      for network in networks
    }
    return {
      network: members for network, members in ids.items() if members.size
    }

  def cohort_names(self) -> dict[Network, str]:
    """What cohorts are called: by their network, or "clients" if one only."""
    networks = list(self.cohorts())
    if len(networks) == 1:
      return {networks[0]: ONLY_COHORT}
    return {network: str(network) for network in networks}

  def members(self) -> dict[str, np.ndarray]:
    """{name of a cohort: int32 ids of its clients}."""
    names = self.cohort_names()
    return {names[network]: ids for network, ids in self.cohorts().items()}

  def first(self, clients: int) -> "Assignment":
    """The same for the first clients alone."""
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

  Raises:
    ValueError: something else; names the field and the part.
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
  """Reads "15*cnn1@1, 20*mlp(32,32)@32": types, and their numbers.

  Raises:
    ValueError: something else; names the part.
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
  """Client types given to the clients in turn."""
  of_client = np.arange(clients, dtype=np.int32) % len(client_types)
  return Assignment(tuple(client_types), of_client)


def assign_counts(
  client_types: Sequence[ClientType],
  counts: Sequence[int],
  held_out_clients: int = 0,
) -> Assignment:
  """So many clients of each type; held-out clients are of the types in turn."""
  of_client = np.concatenate(
    [
      np.repeat(np.arange(len(client_types)), counts),
      np.arange(held_out_clients) % len(client_types),
    ]
  )
  return Assignment(tuple(client_types), of_client.astype(np.int32))


def draw_budgets(budgets: Sequence[int], clients: int, seed: int) -> np.ndarray:
  """A budget for each client, one of these, drawn uniformly."""
  drawn = np.random.default_rng([seed, 0xB0D6E7]).choice(budgets, clients)
  return np.asarray(drawn, np.int64)


def assign_by_budget(
  budgets: np.ndarray, sizes: Mapping[ClientType, int]
) -> Assignment:
  """Gives each client the largest type whose model its budget allows.

  Of types of the same size, the one with more bits.

  Args:
    budgets: int64 `[clients]`, bytes.
    sizes: bytes of a packed model of each client_type.

  Raises:
    ValueError: a budget too small for any of them.
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
  """Size of a model as it would be stored.

  A quantized tensor takes `bits` for each weight, up to a whole byte, and a
  float32 for each level; all else is float32.

  Args:
    params: arrays, or shapes and types.
    stats: batch-norm statistics, likewise.
    is_quantized: predicate on the path of a parameter.
    bits: 1 to 8; 32 for full precision.
    channelwise: whether every entry of the last axis has levels of its own.
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
