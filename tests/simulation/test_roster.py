"""Processes that report before a run; here they share one process."""

import concurrent.futures
import socket
import time

import pytest

from quped_jax.simulation import roster


class FullServer:
  """A server's socket; once there are two connections, one is too many."""

  def __init__(self, server):
    self._server = server
    self.accepted = 0
    self.full = False

  def fileno(self):
    return self._server.fileno()

  def accept(self):
    if self.accepted == 2 and not self.full:
      self.full = True
      raise OSError(24, "Too many open files")
    self.accepted += 1
    return self._server.accept()


def join(port):
  return roster.report(
    f"localhost:{port}", ("localhost", port), 2, 1, timeout=5.0
  )


def test_too_many_strangers_keep_nobody_out():
  with (
    socket.create_server(("localhost", 0)) as server,
    concurrent.futures.ThreadPoolExecutor() as pool,
  ):
    full, port = FullServer(server), server.getsockname()[1]
    address = "localhost", port
    gathered = pool.submit(roster.gather, full, "here", 2, timeout=5.0)
    with (
      socket.create_connection(address, timeout=5.0) as oldest,
      socket.create_connection(address, timeout=5.0),
    ):
      while full.accepted < 2:
        time.sleep(0.01)
      line = join(port)
      assert oldest.recv(1) == b""  # It was hung up on.
    assert full.full and list(gathered.result()) == [1]
    line.close()
    gathered.result()[1].close()


def test_process_0_says_for_whom_it_waits(monkeypatch, capsys):
  monkeypatch.setattr(roster, "_PATIENCE", 0.05)
  with (
    socket.create_server(("localhost", 0)) as server,
    pytest.raises(ValueError, match="must answer within 0.2 s"),
  ):
    roster.gather(server, "here", 3, timeout=0.2)
  assert capsys.readouterr().err.startswith("waits for process_id=[1, 2], ")
