"""Processes that report before a run; here they share one process."""

import concurrent.futures
import socket
import time

import pytest

from quped_jax.simulation import roster


class FullServer(socket.socket):
  """A listener; once there are two connections, one is too many."""

  accepted = 0
  full = False

  def accept(self):
    if self.accepted == 2 and not self.full:
      self.full = True
      raise OSError(24, "Too many open files")
    self.accepted += 1
    return super().accept()


def join(port):
  return roster.report(
    f"localhost:{port}", ("localhost", port), 2, 1, timeout=5.0
  )


def test_too_many_strangers_keep_nobody_out():
  with (
    FullServer() as full,
    concurrent.futures.ThreadPoolExecutor() as pool,
  ):
    full.bind(("localhost", 0))
    full.listen()
    port = full.getsockname()[1]
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
