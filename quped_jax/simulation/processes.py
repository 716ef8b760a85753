"""Several processes, on one machine or many, that simulate one federation.

They share JAX's distributed runtime: the mesh has the devices of all of them,
and every process runs the same program on its part.
"""

import json
import socket
import time
from typing import Any

import jax

from quped_jax import checks

# Seconds between two attempts to reach the coordinator.
_RETRY = 0.2


def join(
  coordinator: str,
  num_processes: int,
  process_id: int,
  *,
  timeout: float = 300.0,
) -> None:
  """Joins the processes of a run; before JAX is used otherwise.

  Args:
    coordinator: "host:port" of process 0, reachable from all others.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: an argument out of range, or processes that do not answer or
      disagree; names which.
  """
  checks.at_least("num_processes", num_processes, 1)
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"process_id={process_id}: must be from 0 to {num_processes - 1}, less "
      f"than num_processes={num_processes}"
    )
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ValueError(
      f"coordinator={coordinator!r}: must be host:port, such as "
      "'localhost:9911'"
    )
  if num_processes == 1:
    return
  # If a process is missing, JAX would end the others; we say which is missing.
  deadline = time.monotonic() + timeout
  if process_id == 0:
    _gather(coordinator, int(port), num_processes, deadline, timeout)
  else:
    _report(coordinator, (host, int(port)), num_processes, process_id, deadline)
  jax.distributed.initialize(coordinator, num_processes, process_id)


def _gather(coordinator, port, num_processes, deadline, timeout) -> None:
  """In process 0: waits until all others have reported, then answers them."""
  waiting: dict[int, socket.socket] = {}
  try:
    server = socket.create_server(("", port), reuse_port=False)
  except OSError as error:
    raise ValueError(
      f"coordinator={coordinator!r}: must be a free port of this machine, that "
      f"of process 0 ({error.strerror})"
    ) from error
  with server:
    while len(waiting) < num_processes - 1:
      server.settimeout(max(deadline - time.monotonic(), 0.01))
      try:
        connection, _ = server.accept()
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        told = json.loads(connection.makefile().readline())
      except TimeoutError:
        missing = sorted(set(range(1, num_processes)) - set(waiting))
        _answer(waiting.values(), f"process_id={missing}: did not answer")
        raise ValueError(
          f"process_id={missing}: must answer within {timeout:g} s at "
          f"coordinator={coordinator!r}; num_processes={num_processes}"
        ) from None
      except (ValueError, OSError):
        continue  # A connection that is not from a process of the run.
      mistake = _mistake(told, num_processes, waiting)
      if mistake:
        _answer([connection], mistake)
        continue
      waiting[told["process_id"]] = connection
    _answer(waiting.values(), "")


def _mistake(told: Any, num_processes: int, known: Any) -> str:
  """What is wrong with a report; "" if nothing is."""
  if not isinstance(told, dict) or set(told) != {"process_id", "processes"}:
    return "not a process of this run"
  if told["processes"] != num_processes:
    return (
      f"num_processes={told['processes']}: must be {num_processes}, as process "
      "0 has it"
    )
  if told["process_id"] in known:
    return f"process_id={told['process_id']}: is taken by another process"
  return ""


def _answer(connections, text: str) -> None:
  for connection in connections:
    try:
      connection.sendall(json.dumps(text).encode() + b"\n")
      connection.settimeout(1.0)
      connection.recv(1)  # Until the other side has closed: it has read.
    except OSError:
      pass
    connection.close()


def _report(coordinator, address, num_processes, process_id, deadline) -> None:
  """In all others: reports to process 0, and waits until all have."""
  report = {"process_id": process_id, "processes": num_processes}
  while True:
    left = deadline - time.monotonic()
    if left <= 0:
      raise ValueError(
        f"coordinator={coordinator!r}: must be where process 0 answers; it "
        "did not in time"
      )
    try:
      with socket.create_connection(address, timeout=left) as connection:
        connection.sendall(json.dumps(report).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
    except (OSError, ValueError):
      time.sleep(min(_RETRY, max(left, 0.0)))
      continue
    if answer:
      raise ValueError(answer)
    return


def join_cluster() -> None:
  """Joins the processes that the cluster's environment names.

  Raises:
    ValueError: an environment that JAX does not know.
  """
  try:
    jax.distributed.initialize()
  except ValueError as error:
    raise ValueError(
      f"distributed=True: must be False outside a cluster that JAX knows "
      f"({error})"
    ) from error


def is_first() -> bool:
  """Whether this is the process that writes results."""
  return jax.process_index() == 0
