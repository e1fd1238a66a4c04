"""A real browser without a window or a network, driven by the Chrome DevTools Protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe",
)  # fmt: skip
BROWSER_READS, BROWSER_WRITES = 3, 4
"""File descriptors of the protocol in the browser."""
LOADED = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
KEY_CODES = {" ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}


class Page:
    """One tab. Console messages, uncaught exceptions and dialogs, which are closed, collect in `messages`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self.session = session
        self.messages: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        return self.browser.call(method, self, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code = KEY_CODES.get(key, ord(key.upper()[0]))
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=8 * shift, **text
            )

    def click(self, x: float, y: float) -> None:
        """Press and release the left mouse button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, buttons=1)

    def screenshot(self, *, clip: tuple[float, float, float, float] | None = None) -> bytes:
        """A PNG of the page, or of a part of it (x, y, width, height)."""
        part: dict[str, Any] = {"captureBeyondViewport": True} if clip else {}
        if clip:
            part["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **part)["data"])


class Browser:
    """Starts on entry and ends on exit."""

    def __enter__(self) -> Self:
        assert BROWSER is not None
        self._profile = tempfile.mkdtemp(prefix="browser-")
        commands, self._commands = self._pipe()
        self._events, events = self._pipe()
        self._pid = os.posix_spawn(
            BROWSER,
            [BROWSER, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, commands, BROWSER_READS),
                (os.POSIX_SPAWN_DUP2, events, BROWSER_WRITES),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        os.close(commands)
        os.close(events)
        self._number, self._buffer = 0, b""
        self._pages: dict[str, Page] = {}
        self._tab: str | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        os.close(self._events)
        shutil.rmtree(self._profile, ignore_errors=True)

    @staticmethod
    def _pipe() -> tuple[int, int]:
        """Ends of a pipe above the numbers that the browser uses, closed in other processes."""
        ends = os.pipe()
        moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in ends)
        for end in ends:
            os.close(end)
        return moved[0], moved[1]

    def open(
        self,
        path: Path,
        fragment: str = "",
        *,
        size: tuple[int, int] = (1280, 900),
        scale: float = 1,
        phone: bool = False,
        theme: Literal["light", "dark"] = "dark",
    ) -> Page:
        """A page of a file, loaded; closes the one before.

        Args:
            fragment: `#` and what follows.
            size: of the window, CSS pixels.
            scale: device pixels for one of them.
        """
        earlier, self._tab = self._tab, self.call("Target.createTarget", url="about:blank")["targetId"]
        if earlier is not None:
            self.call("Target.closeTarget", targetId=earlier)
        session = self.call("Target.attachToTarget", targetId=self._tab, flatten=True)["sessionId"]
        page = Page(self, session)
        self._pages = {session: page}
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        width, height = size
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        page.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        page.evaluate(LOADED)
        return page

    def call(self, method: str, page: Page | None = None, **params: Any) -> dict[str, Any]:
        """A command and its result; events that come before it are noted."""
        number = self._send(method, page, params)
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _send(self, method: str, page: Page | None, params: dict[str, Any]) -> int:
        """Give a command; returns its number."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        command |= {"sessionId": page.session} if page else {}
        _write_all(self._commands, json.dumps(command).encode() + b"\0")
        return self._number

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._events, 1 << 20)
            if not part:
                raise AssertionError("the browser has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        page = self._pages.get(event.get("sessionId", ""))
        if page is None or "method" not in event:
            return
        params = event.get("params", {})
        if event["method"] == "Runtime.consoleAPICalled":
            page.messages.append(str([arg.get("value") for arg in params["args"]]))
        elif event["method"] == "Runtime.exceptionThrown":
            page.messages.append(str(params["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded":
            page.messages.append(params["entry"]["text"])
        elif event["method"] == "Page.javascriptDialogOpening":
            page.messages.append(params["message"])
            self._send("Page.handleJavaScriptDialog", page, {"accept": False})


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
