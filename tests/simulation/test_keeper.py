"""Connections that outlive the process that opened them."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from quped_jax.simulation import keeper

pytestmark = pytest.mark.skipif(
  not keeper._OPEN.exists(), reason="reads /proc, as on Linux"
)

# By its path: importing the package would import JAX.
PROGRAM = f"""
import importlib.util, os, signal, socket, sys
spec = importlib.util.spec_from_file_location("keeper", {keeper.__file__!r})
keeper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keeper)
keeper._SECONDS = 2
address = "localhost", int(sys.argv[1])
early = socket.create_connection(address)
before = keeper.connections()
late = socket.create_connection(address)
keeper.keep(before)
late.sendall(b"held")
early.recv(1)  # Until it is told to end.
if sys.argv[2] == "killed":
  os.kill(os.getpid(), signal.SIGKILL)
"""


def seconds_until_closed(connection, began):
  connection.settimeout(30.0)
  while connection.recv(16):
    pass
  return time.monotonic() - began


@pytest.mark.parametrize("end", ["killed", "well"])
def test_connections_are_held_for_a_while_if_their_process_is_killed(end):
  with socket.create_server(("localhost", 0)) as server:
    server.settimeout(30.0)
    port = str(server.getsockname()[1])
    with subprocess.Popen(
      [sys.executable, "-c", PROGRAM, port, end]
    ) as process:
      early, late = server.accept()[0], server.accept()[0]
      with early, late:
        assert late.recv(4) == b"held"
        began = time.monotonic()
        early.sendall(b"x")
        # What was open before is not held.
        assert seconds_until_closed(early, began) < 1.5
        seconds = seconds_until_closed(late, began)
  if end == "killed":
    assert process.returncode == -signal.SIGKILL and 1.5 < seconds < 10
  else:
    assert process.returncode == 0 and seconds < 1.5


def test_ports_that_are_listened_at_are_not_held():
  before = keeper.connections()
  with (
    socket.create_server(("localhost", 0)) as server,
    socket.create_connection(server.getsockname()) as connection,
  ):
    new = set(keeper.connections().items()) - set(before.items())
    here = os.fstat(connection.fileno()).st_ino
    assert new == {(connection.fileno(), here)}


def test_nothing_is_held_where_nothing_was_opened():
  # A helper would be a child of this process, and a warning.
  keeper.keep(keeper.connections())
