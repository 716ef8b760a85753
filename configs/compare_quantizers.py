"""Estimators side by side: configs/compare_quantizers.py:NAME.

digits   one model on all of digits
quped    QuPeD's clients, on digits
mnist    one CNN1 on all of MNIST

python -m experiments.compare --config=configs/compare_quantizers.py:digits \
  --workdir=results/quantizers

Each row is an estimator, see docs/quantizers.md, at 2 bits or 1; "full" is the
same network in full precision. A step of "soft" takes three gradients, one of
"hard" two, of all others one: the table has both accuracy and gradients, and
--config.base.budget=gradients gives all the same.
"""

from experiments import common


def get_config(name="digits"):
  return common.get_variant("compare_quantizers", "name", name)
