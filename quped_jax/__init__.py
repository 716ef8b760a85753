"""quped_jax: personalized, quantized federated learning in JAX."""

from quped_jax import data, methods, models
from quped_jax.alternating import (
  Alternating,
  Learner,
  Rates,
  freeze,
  make_alternating,
)
from quped_jax.codebook import (
  Codebook,
  get_centers,
  hard_quantize,
  hard_quantize_tree,
  init_codebook,
  init_codebooks,
  set_centers,
  set_centers_tree,
  soft_quantize,
  soft_quantize_tree,
  with_centers,
)
from quped_jax.data import from_arrays, load_dataset, partition
from quped_jax.federation import Federation, make_federation
from quped_jax.methods import register_method
from quped_jax.metrics import Display
from quped_jax.models import Model, create_model, from_linen, register_model
from quped_jax.proximal import centers_prox, weights_prox
from quped_jax.run import Result, build, run
from quped_jax.settings import Settings
from quped_jax.simulate import Simulation, SimulationState, make_simulation
from quped_jax.transforms import (
  keep_params_in_box,
  mask_codebooks,
  prox_centers,
  prox_quantize,
)

__version__ = "0.1.0"
