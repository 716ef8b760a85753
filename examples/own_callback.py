"""A callback of your own: ends a run that does not get better any more.

python examples/own_callback.py

It looks at validation data, of which `validation_fraction` keeps some. Other
things to override in a callback are in docs/callbacks.md.
"""

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.


class Patience(qj.Callback):
  """Ends a run after so many evaluations without a better score."""

  def __init__(self, evaluations: int):
    self.evaluations = evaluations

  def on_begin(self, start):
    self.score = f"validation/{start.primary_variant}"
    # Of a run that goes on from a checkpoint, there are some already.
    self.seen = [record[self.score] for record in start.history]

  def on_evaluation(self, evaluation):
    self.seen.append(evaluation.metrics[self.score])
    print(f"round {evaluation.round}: {100 * self.seen[-1]:.1f} %")
    best = self.seen.index(max(self.seen))
    if best < len(self.seen) - self.evaluations:
      raise qj.StopRun(f"no better for {self.evaluations} evaluations")


settings = qj.Settings(
  clients=6, bits=(1,), rounds=100, eval_every=2, validation_fraction=0.2
)
quiet = qj.Display(quiet=True)
summary = qj.run(settings, callbacks=[Patience(3), quiet]).summary
print("stopped:", summary.get("stopped"))
print(summary["accuracy"]["quantized"])
