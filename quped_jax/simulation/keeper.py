"""Keeps JAX's connections open for a while after process 0 was killed.

JAX aborts every process whose connection to process 0 closes, at once and with
a long report. A small helper process holds these connections too, so that they
stay open for the seconds in which the others end by themselves, see `links`.
"""

import atexit
import os
import pathlib
import socket
import subprocess
import sys

# Longer than the others need to end.
_SECONDS = 20
# A byte means that process 0 has ended well; the end of the pipe, that it died.
_PROGRAM = "import os, time; os.read({0}, 1) or time.sleep({1})"

_OPEN = pathlib.Path("/proc/self/fd")


def connections() -> dict[int, int]:
  """{file descriptor: inode} of this process's connections; {} if not Linux."""
  found = {}
  for name in os.listdir(_OPEN) if _OPEN.exists() else ():
    try:
      if os.readlink(_OPEN / name).startswith("socket:"):
        with socket.socket(fileno=os.dup(int(name))) as copy:
          internet = copy.family in (socket.AF_INET, socket.AF_INET6)
          # A port that is listened at would stay taken.
          if internet and not _listens(copy):
            found[int(name)] = os.fstat(copy.fileno()).st_ino
    except OSError:
      pass  # Closed meanwhile.
  return found


def _listens(connection: socket.socket) -> int:
  return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def keep(before: dict[int, int]) -> None:
  """Holds the connections that were opened since `connections` was called.

  Args:
    before: what it returned.
  """
  held = [fd for fd, inode in connections().items() if before.get(fd) != inode]
  if not held:
    return
  ended, here = os.pipe()
  helper = subprocess.Popen(
    [sys.executable, "-IS", "-c", _PROGRAM.format(ended, _SECONDS)],
    pass_fds=[ended, *held],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    # A Ctrl-C in the terminal is not meant for it.
    start_new_session=True,
  )
  os.close(ended)

  def end() -> None:
    os.write(here, b"x")
    helper.wait()

  atexit.register(end)
