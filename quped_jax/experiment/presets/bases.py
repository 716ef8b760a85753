"""What the runs of a comparison share, from the settings of one run."""

from collections.abc import Mapping
from typing import Any

# A comparison itself says these of each run.
_OF_ROWS = ("method", "bits", "seed")


def base_of(run: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
  """The base of a comparison: a run's settings, but not what rows differ in.

  Args:
    run: settings of a run.
    **changes: settings that are others in the comparison.
  """
  kept = {name: value for name, value in run.items() if name not in _OF_ROWS}
  return {**kept, **changes}
