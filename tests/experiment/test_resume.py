"""Progress; see also test_interrupted_runs.py, and tests of checkpoints."""

import numpy as np

from quped_jax.experiment.resume import Progress


def test_validation_decides_even_where_test_disagrees():
  def accuracy(validation, test):
    def table(value):
      return {"quantized": np.array([value, value])}

    return {"validation": table(validation), "test": table(test)}

  def best_of(evaluated):
    progress = Progress()
    for round_, table in zip((2, 4, 6), evaluated, strict=True):
      progress.look({"round": round_}, table, "quantized")
    return progress.best_rounds()

  evaluated = [accuracy(0.5, 0.9), accuracy(0.7, 0.6), accuracy(0.6, 0.8)]
  best = best_of(evaluated)
  assert best["best_round"] == 4
  assert best["accuracy_best_round"]["quantized"]["mean"] == 0.6
  assert best["oracle_best"]["round"] == 2
  for tables in evaluated:
    del tables["validation"]
  best = best_of(evaluated)
  assert best["best_round"] is None and best["accuracy_best_round"] is None
  assert best["oracle_best"]["accuracy"]["quantized"]["mean"] == 0.9
