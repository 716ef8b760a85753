"""Settings of the clients: how many, what they have, when they take part."""

from quped_jax import checks, models
from quped_jax.chances import SMALLEST, check_chance
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.experiment.settings.fields import (
  Group,
  at_least,
  converted,
  each,
  group,
  one_of,
  setting,
  widths,
)
from quped_jax.experiment.settings.values import numbers, path, whole_numbers
from quped_jax.quantization import codebook as codebook_lib


def _precisions(field: str, value: tuple[int, ...]) -> None:
  if not value:
    raise ValueError(f"{field}=(): must hold at least one precision")
  codebook_lib.check_bits(value, field)


def _chances(field: str, value: tuple[float, ...]) -> None:
  if not all(SMALLEST <= chance <= 1 for chance in value):
    raise ValueError(
      f"{field}={value}: must be chances in (0, 1], at least {SMALLEST:.2g}, "
      "the smallest that is drawn, or () for everyone"
    )


def _chance(field: str, value: float) -> None:
  if not 0 <= value < 1:
    raise ValueError(f"{field}={value}: must be a chance in [0, 1)")
  check_chance(field, value)


def _share(field: str, value: float) -> None:
  checks.unit_interval(field, value)
  check_chance(field, value)


@group
class ClientSettings(Group):
  """How many clients there are, and of which types."""

  clients: int = setting(40, "number of clients that train.", at_least(1))
  held_out_clients: int = setting(
    0,
    "number of further clients, which take no part in training: each starts "
    "from the global model when it is evaluated.",
    at_least(0),
  )
  held_out_client_steps: int = setting(
    10, "local steps that a held-out client takes first.", at_least(0)
  )
  bits: tuple[int, ...] = converted(
    default=(1,),
    doc="precisions, given to the clients in turn: 1 to 8, or 32 for full "
    "precision.",
    rules=(_precisions,),
    converter=whole_numbers,
    data=True,
  )
  client_types: str = setting(
    "",
    "if not '', the types that make up `clients`, each so many of a network at "
    "so many bits: '15*cnn1@1, 15*cnn1(8,16,64)@2, 20*mlp(32,32)@32'. Then "
    "`bits` is not used, and `model` and `hidden` are the global model's.",
  )
  budget_bytes: tuple[int, ...] = converted(
    default=(),
    doc="if not (), the sizes that clients' packed models may have, of which "
    "one is drawn for each client: it gets the largest of `candidates`, each "
    "at each of `bits`, that fits.",
    rules=(each(at_least(1)),),
    converter=whole_numbers,
  )
  candidates: str = setting(
    "",
    "networks for `budget_bytes`, such as 'cnn1, mlp(32,32)'; '' for `model` "
    "alone.",
  )

  @property
  def turns(self) -> tuple[int, ...]:
    """The precisions that per-precision step sizes belong to."""
    if self.client_types:
      types, _ = client_types_lib.parse_client_types(self.client_types)
      return tuple(client_type.bits for client_type in types)
    return self.bits

  @property
  def quantized(self) -> bool:
    """Whether any client may have less than full precision."""
    return any(b != codebook_lib.FULL_PRECISION for b in self.turns)

  def _check(self) -> None:
    if self.client_types:
      _, counts = client_types_lib.parse_client_types(self.client_types)
      if sum(counts) != self.clients:
        raise ValueError(
          f"client_types={self.client_types!r}: must add up to clients="
          f"{self.clients}; got {' + '.join(map(str, counts))} = {sum(counts)}"
        )
      if self.budget_bytes:
        raise ValueError(
          f"budget_bytes={self.budget_bytes}: must be () with client_types="
          f"{self.client_types!r}, which say what clients have"
        )
    if self.candidates:
      client_types_lib.parse_networks("candidates", self.candidates)
      if not self.budget_bytes:
        raise ValueError(
          f"candidates={self.candidates!r}: must be '' without budget_bytes, "
          "which choose among them"
        )


@group
class NetworkSettings(Group):
  """The networks of clients and server."""

  model: str = setting(
    "mlp", "name of a network, see `quped_jax.models.create_model`."
  )
  hidden: tuple[int, ...] = converted(
    default=(),
    doc="widths of the hidden layers of 'mlp', 'cnn1' or 'cnn2' in forward "
    "order: of a CNN first those of its two or four convolutions, then those "
    "of any number of dense layers. () for the default.",
    rules=(widths,),
    converter=whole_numbers,
  )
  shared_model: str = setting(
    "",
    "the global model's network, for methods in which clients keep models of "
    "their own; '' for `model`.",
  )
  shared_hidden: tuple[int, ...] = converted(
    default=(),
    doc="its widths, as in `hidden`; () for its default.",
    rules=(widths,),
    converter=whole_numbers,
  )
  conv: str = setting(
    "auto",
    "how convolutions are computed, see `quped_jax.models.resolve_conv`.",
  )
  padding: str = setting(
    "same",
    "of the convolutions of 'cnn1' and 'cnn2': 'same', with zeros by which "
    "images keep their size, or 'valid', without any. Of several networks it "
    "is that of all that are CNNs.",
    one_of(models.PADDINGS),
    later=True,
  )
  compute_dtype: str = setting(
    "float32",
    "type in which networks compute, 'float32' or 'bfloat16'; parameters, "
    "levels and losses are float32 in either case.",
    one_of(models.COMPUTE_DTYPES),
  )
  warm_start: str = converted(
    default="",
    doc="file of weights that every `model` starts from, of clients and "
    "server; networks of other `client_types` start afresh. '' for fresh "
    "weights.",
    converter=path,
  )

  def _check(self) -> None:
    for field, model_field in (
      ("hidden", "model"),
      ("shared_hidden", "shared_model"),
    ):
      value, model = getattr(self, field), getattr(self, model_field)
      if value and not model:
        raise ValueError(f"{field}={value}: must be () with {model_field}=''")
      try:
        models.width_options(model, value, f"{field}={value}")
      except ValueError as error:
        # A misspelt model is the likelier mistake.
        checks.choice(model_field, model, models.model_names())
        raise ValueError(
          f"{error} (--config.{field}='()' gives none)"
        ) from None


@group
class ParticipationSettings(Group):
  """Which clients take part in a round, and how far they get."""

  clients_per_round: int = setting(
    0,
    "how many clients take part in a round, drawn uniformly; 0 for all.",
    at_least(0),
  )
  participation: tuple[float, ...] = converted(
    default=(),
    doc="chances that clients take part in a round, given to them in turn; () "
    "for certainty.",
    rules=(_chances,),
    converter=numbers,
    data=True,
  )
  participation_trace: str = converted(
    default="",
    doc="file that says who takes part when, CSV with the columns round and "
    "client, both from 0; '' for none.",
    converter=path,
  )
  dropout: float = setting(
    0.0,
    "chance that a participant does not get through the round: it keeps its "
    "state and sends nothing.",
    _chance,
    data=True,
  )
  epochs_of: str = setting(
    "average",
    "whose samples `epochs` go through: those of the 'average' client, so that "
    "all take as many steps; or of 'each' its own, so that clients with more "
    "samples take more steps.",
    one_of(("average", "each")),
    later=True,
  )
  stragglers: float = setting(
    0.0,
    "chance that a participant takes fewer local steps than `steps`, or than "
    "its own epochs have: from 1 to one less, all equally likely.",
    _share,
    data=True,
  )

  def _check(self) -> None:
    names = "clients_per_round", "participation", "participation_trace"
    given = {name: value for name in names if (value := getattr(self, name))}
    if len(given) > 1:
      (first, earlier), (second, later), *_ = given.items()
      raise ValueError(
        f"{second}={later!r}: must not be set beside {first}={earlier!r}: one "
        "of them says who takes part"
      )
