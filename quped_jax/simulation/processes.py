"""Several processes, on one machine or many, that simulate one federation.

They share JAX's distributed runtime: the mesh has the devices of all of them,
and every process runs the same program on its part. They begin and end
together, see `links`.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from quped_jax import checks
from quped_jax.simulation import keeper, roster
from quped_jax.simulation.links import Line, Links

# The most bytes of an address.
_ADDRESS_BYTES = 256

# The links to the other processes; None in a single process. Like JAX's own
# runtime they last as long as the process.
_links: Links | None = None


class DisagreementError(ValueError):
  """Processes of one run were given different settings; all raise it."""


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
    ConnectionError: a process has ended.
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
  if process_id == 0:
    with _serve(coordinator, int(port)) as server:
      lines = roster.gather(server, coordinator, num_processes, timeout=timeout)
  else:
    address = host, int(port)
    lines = {
      0: roster.report(
        coordinator, address, num_processes, process_id, timeout=timeout
      )
    }
  with _link(process_id, lines, num_processes).together():
    before = keeper.connections()
    jax.distributed.initialize(coordinator, num_processes, process_id)
    if process_id == 0:
      keeper.keep(before)


def _serve(coordinator: str, port: int) -> socket.socket:
  try:
    return socket.create_server(("", port), reuse_port=False)
  except OSError as error:
    raise ValueError(
      f"coordinator={coordinator!r}: must be a free port of this machine, that "
      f"of process 0 ({error.strerror})"
    ) from error


def _link(process_id: int, lines: dict[int, Line], count: int) -> Links:
  global _links
  _links = Links(process_id, lines, count)
  # Called before JAX's own, which was registered earlier.
  atexit.register(_links.part)
  return _links


def join_cluster(*, timeout: float = 300.0) -> None:
  """Joins the processes that the cluster's environment names.

  Args:
    timeout: seconds to wait for the others.

  Raises:
    ValueError: an environment that JAX does not know, or processes that do not
      answer.
  """
  before = keeper.connections()
  try:
    jax.distributed.initialize()
  except ValueError as error:
    raise ValueError(
      f"distributed=True: must be False outside a cluster that JAX knows "
      f"({error})"
    ) from error
  count, here = jax.process_count(), jax.process_index()
  if count == 1:
    return
  if here == 0:
    keeper.keep(before)
  with contextlib.ExitStack() as stack:
    server = None
    if here == 0:
      server = stack.enter_context(socket.create_server(("", 0)))
      told = [socket.gethostname(), server.getsockname()[1]]
    else:
      told = []
    host, port = _told_by_the_first(told)
    name = f"{host}:{port}"
    if server is not None:
      lines = roster.gather(server, name, count, timeout=timeout)
    else:
      address = host, port
      lines = {0: roster.report(name, address, count, here, timeout=timeout)}
  _link(here, lines, count)


def _told_by_the_first(value: Any) -> Any:
  """A small JSON value of process 0, where JAX alone connects processes."""
  text = json.dumps(value).encode().ljust(_ADDRESS_BYTES)
  told = multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))
  return json.loads(np.asarray(told).tobytes())


def is_first() -> bool:
  """Whether this is the process that writes results."""
  # JAX would wait for the devices of all processes before it answers.
  if _links is not None:
    return _links.process_id == 0
  return jax.process_index() == 0


def together(
  agreed: tuple[type[BaseException], ...] = (),
) -> contextlib.AbstractContextManager[Callable[[Callable[[], str]], None]]:
  """A run, of all processes: if one fails in it or ends, all end.

  Args:
    agreed: exceptions that all processes raise together.

  Returns:
    A context, see `Links.together`. In a single process it does nothing.
  """
  if _links is None:
    return contextlib.nullcontext(lambda note: None)
  return _links.together((*agreed, DisagreementError))


def agreeing() -> contextlib.AbstractContextManager[None]:
  """What all processes do before the first round, see `Links.agreeing`."""
  return contextlib.nullcontext() if _links is None else _links.agreeing()


def exchange(value: Any) -> list[Any]:
  """The JSON values of all processes, in their order; all call this.

  Raises:
    ConnectionError: a process has ended.
  """
  if _links is not None:
    return _links.exchange(value)
  if jax.process_count() == 1:
    return [value]
  # Who connected the processes has not done so by `join`.
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.pad(text, (0, int(np.max(sizes)) - len(text)))
  texts = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(np.asarray(texts), sizes, strict=True)
  ]


def check_same(*groups: Mapping[str, Any]) -> None:
  """Compares what must be the same in all processes; nothing is compiled.

  Args:
    *groups: JSON values by name. Where a group differs, those after it are not
      looked at, since they may follow from it.

  Raises:
    DisagreementError: they differ; names a process and what differs.
    ConnectionError: a process has ended.
  """
  if _links is None:
    return
  told = _links.exchange([dict(values) for values in groups])
  for first, *others in zip(*told, strict=True):
    for i, other in enumerate(others, 1):
      if differ := _differences(first, other):
        raise DisagreementError(f"process {i}: {'; '.join(differ)}")


def _differences(first: Any, other: Any, prefix: str = "") -> list[str]:
  found = []
  for name in sorted(first.keys() | other.keys()):
    expected, value = first.get(name), other.get(name)
    if isinstance(expected, dict) and isinstance(value, dict):
      found += _differences(expected, value, f"{prefix}{name}.")
    elif json.dumps(expected) != json.dumps(value):
      found.append(
        f"{prefix}{name}={value!r}: must be {expected!r}, as in process 0"
      )
  return found


def announce(number: int) -> None:
  """Ends the run in all processes, after the rounds that are under way.

  Args:
    number: the signal that is the reason.
  """
  if _links is not None:
    _links.announce(number)
  # JAX tells the others, which agree on a round; only this begins it.
  os.kill(os.getpid(), signal.SIGTERM)


def announced() -> int:
  """The signal that ends the run, where JAX has said that one does."""
  return (_links.signal if _links is not None else 0) or signal.SIGTERM


def leave(code: int, reason: str) -> None:
  """Ends this process, without JAX's wait for the others, if it ends alone.

  Args:
    code: the exit code.
    reason: for the others.
  """
  if _links is not None:
    _links.leave(code, reason)
