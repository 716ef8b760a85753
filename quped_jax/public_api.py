"""All that users of the package import: `import quped_jax as qj`, `qj.NAME`."""

from quped_jax import data, methods, models
from quped_jax.data import from_arrays, from_dataframe, load_dataset, partition
from quped_jax.data.federation import Federation, make_federation
from quped_jax.experiment import callbacks
from quped_jax.experiment.build import build
from quped_jax.experiment.callbacks import Callback, Display, StopRun
from quped_jax.experiment.comparison.compare import compare
from quped_jax.experiment.comparison.grid import Grid, grid
from quped_jax.experiment.comparison.result import Comparison
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.figures.partition import plot_partition
from quped_jax.experiment.figures.run_figures import plot_run
from quped_jax.experiment.report.write import write_report
from quped_jax.experiment.result import Result
from quped_jax.experiment.run import Interrupted, run
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.sweep import SweptRun, sweep
from quped_jax.export.model_export import Exported, export_model
from quped_jax.files.info import BackInfo, ModelInfo
from quped_jax.files.packed import (
  PackedModel,
  load_packed,
  save_packed,
)
from quped_jax.files.weights import load_weights, save_weights
from quped_jax.methods import register_method
from quped_jax.models import Model, create_model, from_linen, register_model
from quped_jax.quantization.alternating import (
  Alternating,
  Learner,
  Rates,
  current,
  deployed,
  freeze,
)
from quped_jax.quantization.annealing import Annealing
from quped_jax.quantization.codebook import (
  Codebook,
  hard_quantize,
  init_codebook,
  set_centers,
)
from quped_jax.quantization.codebook_tree import (
  get_centers,
  hard_quantize_tree,
  init_codebooks,
  quantize_once,
  set_centers_tree,
  with_centers,
)
from quped_jax.quantization.proximal import centers_prox, weights_prox
from quped_jax.quantization.soft_quantizer import (
  soft_quantize,
  soft_quantize_tree,
)
from quped_jax.quantization.training_steps import make_alternating
from quped_jax.quantization.transforms import (
  keep_params_in_box,
  mask_codebooks,
  prox_centers,
  prox_quantize,
)
from quped_jax.simulation.layout import use_cores
from quped_jax.simulation.program import use_compilation_cache
from quped_jax.simulation.simulation import Simulation, make_simulation
from quped_jax.simulation.state import SimulationState, client_state
from quped_jax.version import __version__

__all__ = [
  "__version__",
  "Alternating",
  "Annealing",
  "BackInfo",
  "Callback",
  "Codebook",
  "Comparison",
  "Display",
  "DivergenceError",
  "Exported",
  "Federation",
  "Grid",
  "Interrupted",
  "Learner",
  "Model",
  "ModelInfo",
  "PackedModel",
  "Rates",
  "Result",
  "Settings",
  "Simulation",
  "SimulationState",
  "StopRun",
  "SweptRun",
  "build",
  "callbacks",
  "centers_prox",
  "client_state",
  "compare",
  "create_model",
  "current",
  "data",
  "deployed",
  "export_model",
  "freeze",
  "from_arrays",
  "from_dataframe",
  "from_linen",
  "get_centers",
  "grid",
  "hard_quantize",
  "hard_quantize_tree",
  "init_codebook",
  "init_codebooks",
  "keep_params_in_box",
  "load_dataset",
  "load_packed",
  "load_weights",
  "make_alternating",
  "make_federation",
  "make_simulation",
  "mask_codebooks",
  "methods",
  "models",
  "partition",
  "plot_partition",
  "plot_run",
  "prox_centers",
  "prox_quantize",
  "quantize_once",
  "register_method",
  "register_model",
  "run",
  "save_packed",
  "save_weights",
  "set_centers",
  "set_centers_tree",
  "soft_quantize",
  "soft_quantize_tree",
  "sweep",
  "use_compilation_cache",
  "use_cores",
  "weights_prox",
  "with_centers",
  "write_report",
]
