"""Measurements of the benchmark as tests make them up."""


def times(seconds=0.5, **more):
  """What a row says that was measured."""
  return {
    "seconds_min": seconds,
    "seconds_median": seconds,
    "spread": 0.0,
    "repetitions": 2,
    "first_seconds": 3.0,
    "compile_seconds": 1.0,
    "details": {},
    **more,
  }
