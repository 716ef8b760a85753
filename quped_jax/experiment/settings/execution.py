"""Settings of how a run is executed, what ends it, and what it leaves."""

from quped_jax import checks
from quped_jax.experiment.settings.fields import (
  Group,
  at_least,
  group,
  one_of,
  setting,
)
from quped_jax.simulation import layout as layout_lib
from quped_jax.simulation import store as store_lib

ON_DIVERGENCE = ("drop", "raise")
SAVED_MODELS = ("none", "clients")


@group
class ExecutionSettings(Group):
  """How clients are run, and where their states are kept."""

  strategy: str = setting(
    "auto",
    "how clients are run on each device: 'auto', all at once ('vmap'), some at "
    "a time ('chunks'), or that with the loop on the host ('dispatch').",
    one_of(layout_lib.STRATEGIES),
    free=True,
  )
  chunk_size: int = setting(
    1,
    "how many clients run at once, of 'chunks' and 'dispatch'.",
    at_least(1),
    free=True,
  )
  devices: int = setting(
    0,
    "over how many devices the clients are divided; 0 for all.",
    at_least(0),
    free=True,
  )
  client_state: str = setting(
    "device",
    "where clients' states are kept: 'device'; or, for more clients than fit, "
    "'host', in host memory, or 'disk', in files in the workdir. Then only "
    "participants are moved to devices.",
    one_of(store_lib.PLACES),
    free=True,
  )
  clients_per_block: int = setting(
    0,
    "how many clients are moved at once; 0 for 256.",
    at_least(0),
    free=True,
  )
  rounds_per_dispatch: int = setting(
    0,
    "how many rounds at most are started at once, where no evaluation or "
    "fine-tuning phase comes between; 0 for a number that follows from the "
    "work in a round.",
    at_least(0),
    free=True,
    data=True,
  )
  deterministic: bool = setting(
    False,
    "whether results must be the same bit for bit in every run on the same "
    "GPUs, which takes longer; on CPUs they always are.",
    free=True,
  )

  def _check(self) -> None:
    store_lib.check_store(
      self.client_state, self.clients_per_block, self.strategy
    )


@group
class DivergenceSettings(Group):
  """Which clients count as diverged, and what becomes of them."""

  on_divergence: str = setting(
    "drop",
    "what happens to clients that diverge: 'drop' undoes the round of such a "
    "client, as if it had been absent, and warns; 'raise' ends the run.",
    one_of(ON_DIVERGENCE),
    data=True,
  )
  max_message_norm: float = setting(
    0.0,
    "a client whose message is longer has diverged, and none may be longer "
    "than 1e19; 0 for 100 times the median of earlier rounds (and a limit of "
    "losses that follows from theirs), see `quped_jax.simulation.divergence`.",
    checks.not_negative,
  )


@group
class OutputSettings(Group):
  """What a run saves in its workdir, and when."""

  checkpoint_every: int = setting(
    0,
    "rounds between checkpoints; 0 for none that are counted so.",
    at_least(0),
    free=True,
    data=True,
  )
  checkpoint_minutes: float = setting(
    10.0,
    "minutes without a checkpoint after which one is saved, at the end of a "
    "round; 0 for never.",
    checks.not_negative,
    free=True,
    data=True,
  )
  keep_checkpoints: int = setting(
    2,
    "how many of the latest checkpoints are kept, beside the best.",
    at_least(1),
    free=True,
    data=True,
  )
  save_models: str = setting(
    "none",
    "what a run leaves in the workdir's folder `models`: 'none', or 'clients', "
    "what every client would use (a packed file each), and the global model if "
    "there is one.",
    one_of(SAVED_MODELS),
    free=True,
    data=True,
  )
  figures: bool = setting(
    True,
    "whether what figures need is recorded, and figures are drawn into the "
    "workdir's folder `figures` where matplotlib is installed. The single runs "
    "of sweeps and comparisons have none.",
    free=True,
    data=True,
  )
