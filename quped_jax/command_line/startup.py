"""What a command does before it computes: devices, processes, caches."""

from absl import logging

import quped_jax as qj
from quped_jax.simulation import processes


def prepare() -> None:
  """Prepares for computing, before JAX is first used.

  Every CPU core becomes a device, and compiled programs are kept for later
  runs.
  """
  qj.use_cores()
  qj.use_compilation_cache()
  # tensorflow-datasets logs every step that it takes.
  logging.set_verbosity(logging.WARNING)


def join(
  coordinator: str | None,
  num_processes: int,
  process_id: int,
  *,
  distributed: bool,
  timeout: float,
) -> None:
  """Joins the other processes of a run, if there are any.

  Args:
    coordinator: HOST:PORT of process 0; None if there is only this one.
    num_processes: how many there are.
    process_id: which this is.
    distributed: whether the cluster's environment says so instead.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: arguments that do not go together, or others that do not answer.
  """
  if distributed:
    processes.join_cluster(timeout=timeout)
  elif coordinator:
    if num_processes < 2:
      raise ValueError(
        f"num_processes={num_processes}: must be at least 2 with --coordinator"
      )
    processes.join(coordinator, num_processes, process_id, timeout=timeout)
  elif num_processes != 1:
    raise ValueError(
      f"num_processes={num_processes}: must be 1 without --coordinator"
    )
  elif process_id:
    raise ValueError(
      f"process_id={process_id}: must be 0 without --coordinator"
    )
