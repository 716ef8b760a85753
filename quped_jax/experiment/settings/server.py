"""Settings of messages, and what the server makes of them.

Compression, robustness and privacy.
"""

from quped_jax import checks
from quped_jax.experiment.settings.fields import (
  Group,
  at_least,
  group,
  one_of,
  setting,
)
from quped_jax.methods.blocks import ranks
from quped_jax.methods.wrappers import byzantine, compress, compressors
from quped_jax.methods.wrappers import privacy as privacy_lib
from quped_jax.methods.wrappers import robust as robust_lib


def _compression_bits(field: str, value: int) -> None:
  if not 2 <= value <= 8:
    raise ValueError(f"{field}={value}: must be from 2 to 8")


def _compression_share(field: str, value: float) -> None:
  if not 0 < value <= 1:
    raise ValueError(f"{field}={value}: must be above 0, and at most 1")


@group
class CompressionSettings(Group):
  """How few bytes clients send."""

  compression: str = setting(
    "none",
    "how clients compress what they send: 'qsgd', integers times a size, or "
    "'uniform', integers between the least and the largest number, both of "
    "`compression_bits`; 'topk', the largest numbers; 'sign', signs times a "
    "size; or 'none'. For methods whose server takes the mean of models, and "
    "for scaffold, feddyn, feddf and fedbe; see "
    "`quped_jax.methods.wrappers.compress`.",
    one_of(compress.COMPRESSIONS),
    later=True,
  )
  compression_bits: int = setting(
    4,
    "bits of each number of 'qsgd' and 'uniform', 2 to 8.",
    _compression_bits,
    later=True,
  )
  compression_norm: str = setting(
    "max",
    "the size of 'qsgd': 'max', the largest number's; or 'l2', the array's "
    "length.",
    one_of(compressors.NORMS),
    later=True,
  )
  compression_share: float = setting(
    0.1,
    "share of the numbers of each array that 'topk' sends.",
    _compression_share,
    later=True,
  )
  error_feedback: str = setting(
    "auto",
    "whether clients keep what compression lost, and add it to what they send "
    "next: 'on', 'off', or 'auto', on with 'topk' and 'sign', which are wrong "
    "on average.",
    one_of(compress.ERROR_FEEDBACK),
    later=True,
  )

  def _check(self) -> None:
    compress.check_error_feedback(self.compression, self.error_feedback)


@group
class RobustnessSettings(Group):
  """How messages are averaged, and clients that send false ones."""

  aggregation: str = setting(
    "mean",
    "what the server takes of the messages: the 'mean', with the method's "
    "weights; of clients that weigh the same, the 'median' or 'trimmed_mean' "
    "of every coordinate, 'krum', 'multi_krum', 'bulyan' or "
    "'geometric_median'; or 'norm_clipped_mean'. All but 'mean' are for "
    "methods whose server takes the mean of models; those of clients that "
    "weigh the same also for scaffold, feddyn, feddf, fedmd, ds_fl and cfd.",
    one_of(robust_lib.AGGREGATIONS),
  )
  trim: float = setting(
    0.1,
    "share of the clients that 'trimmed_mean' leaves out at either end of "
    "every coordinate.",
    ranks.check_trim,
  )
  assumed_byzantine: int = setting(
    1,
    "how many clients of a round may send false messages to 'krum', "
    "'multi_krum' and 'bulyan'. They need twice as many and 3 more in a round, "
    "bulyan four times as many and 3 more; of fewer they take the median.",
    at_least(0),
    later=True,
  )
  krum_clients: int = setting(
    0,
    "of how many clients' messages 'multi_krum' takes the mean; 0 for all that "
    "take part but `assumed_byzantine` + 2.",
    at_least(0),
    later=True,
  )
  clip_norm: float = setting(
    1.0,
    "largest L2 norm of a message to 'norm_clipped_mean'.",
    checks.positive,
    traced=True,
  )
  byzantine_clients: int = setting(
    0, "how many clients, the last of `clients`, send false messages."
  )
  attack: str = setting(
    "sign_flip",
    "what they send: 'sign_flip', minus `attack_scale` times the true message, "
    "or 'random', Gaussian noise of that standard deviation.",
    one_of(byzantine.ATTACKS),
  )
  attack_scale: float = setting(
    10.0,
    "factor or standard deviation of `attack`.",
    checks.positive,
    traced=True,
  )


@group
class PrivacySettings(Group):
  """Differential privacy of the model that clients train together."""

  dp_clip: float = setting(
    0.0,
    "if positive, the model that clients train together is differentially "
    "private, and this is the largest L2 norm of a message, see "
    "`quped_jax.methods.wrappers.privacy`. It needs `participation`, uniform "
    "weights, and the extra 'privacy'.",
    checks.not_negative,
    traced=True,
    off_at_zero=True,
  )
  dp_noise: float = setting(
    0.0,
    "standard deviation of the noise on the sum of the messages, in units of "
    "`dp_clip`.",
    checks.not_negative,
    traced=True,
  )
  dp_delta: float = setting(
    1e-5,
    "delta of the guarantee, whose epsilon is in `summary.json`.",
    privacy_lib.check_delta,
    data=True,
  )

  def _check(self) -> None:
    privacy_lib.check_noise(self.dp_clip, self.dp_noise)
