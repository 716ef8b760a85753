"""A headless Chromium, spoken to through a pipe: tests of pages use it.

It is the DevTools protocol: messages of JSON, each ended by a zero byte.
"""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

_NAMES = "chromium", "chromium-browser", "google-chrome"
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), None)

_KEYS = {
  "Tab": ("Tab", 9, ""),
  "Enter": ("Enter", 13, "\r"),
  "Space": (" ", 32, " "),
}


class Page:
  """A page that is open in the browser.

  Attributes:
    problems: errors and warnings of the page's scripts, and what the browser
      says is wrong with it.
    requests: addresses that the page asked for, beside its own, and but for
      data that the address itself holds.
  """

  def __init__(self, to: int, of: int):
    self._to, self._of = to, of
    self._number, self._rest = 0, b""
    self._session: str | None = None
    self._events: list[dict[str, Any]] = []
    self.problems: list[str] = []
    self.requests: list[str] = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Calls a method of the protocol."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while True:
      answer = self._receive()
      if answer.get("id") == self._number:
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

  def _receive(self) -> dict[str, Any]:
    while b"\0" not in self._rest:
      part = os.read(self._of, 2**16)
      assert part, "the browser ended"
      self._rest += part
    text, _, self._rest = self._rest.partition(b"\0")
    message = json.loads(text)
    self._note(message.get("method"), message.get("params", {}))
    self._events.append(message)
    return message

  def _note(self, event: str | None, params: dict[str, Any]) -> None:
    if event == "Runtime.exceptionThrown":
      self.problems.append(str(params["exceptionDetails"]))
    elif event == "Runtime.consoleAPICalled":
      self.problems.append(str(params["args"]))
    elif event == "Log.entryAdded":
      self.problems.append(params["entry"]["text"])
    elif event == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])

  def open(self, path: pathlib.Path) -> None:
    """Opens a file, and waits until all of it is there."""
    self._events.clear()
    self.call("Page.navigate", url=path.as_uri())
    while not any(
      x.get("method") == "Page.loadEventFired" for x in self._events
    ):
      self._receive()
    self.requests = [
      x
      for x in self.requests
      if x != path.as_uri() and not x.startswith("data:")
    ]

  def size(self, width: int, height: int = 800) -> None:
    """Gives the window a size, in CSS pixels; a narrow one is a phone's."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip

  def media(self, kind: str = "screen", *, dark: bool = False) -> None:
    """Chooses between screen and print, and whether readers like it dark."""
    scheme = "dark" if dark else "light"
    self.call(
      "Emulation.setEmulatedMedia",
      media=kind,
      features=[{"name": "prefers-color-scheme", "value": scheme}],
    )

  def value(self, expression: str) -> Any:
    """What a JavaScript expression gives, as JSON values."""
    found = self.call(
      "Runtime.evaluate", expression=expression, returnByValue=True
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")

  def press(self, key: str) -> None:
    """Presses a key: "Tab", "Enter" or "Space"."""
    name, code, text = _KEYS[key]
    same: dict[str, Any] = {"key": name, "windowsVirtualKeyCode": code}
    self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **same)
    self.call("Input.dispatchKeyEvent", type="keyUp", **same)

  def picture(self, path: pathlib.Path, *, whole: bool = True) -> None:
    """Writes what the page looks like, as PNG."""
    found = self.call(
      "Page.captureScreenshot", format="png", captureBeyondViewport=whole
    )
    path.write_bytes(base64.b64decode(found["data"]))

  def printed(self) -> bytes:
    """The page as it is printed, a PDF file."""
    return base64.b64decode(self.call("Page.printToPDF")["data"])


@contextlib.contextmanager
def page(folder: pathlib.Path) -> Iterator[Page]:
  """Starts a browser with an empty page, and ends it.

  Args:
    folder: where the browser keeps its files.
  """
  assert PROGRAM is not None
  (there, to), (of, here) = os.pipe(), os.pipe()
  # Its ends of the pipes are numbers 3 and 4.
  command = f'exec "$@" 3<&{there} 4>&{here}'
  options = [
    "--headless=new", "--no-sandbox", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking",
    "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
    f"--user-data-dir={folder}",
  ]  # fmt: skip
  process = subprocess.Popen(
    ["bash", "-c", command, "bash", PROGRAM, *options],
    pass_fds=(there, here),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(there)
  os.close(here)
  try:
    opened = Page(to, of)
    yield opened
    opened.call("Browser.close")
  finally:
    process.terminate()
    process.wait()
    os.close(to)
    os.close(of)
