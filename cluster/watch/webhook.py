"""Messages to a webhook of Slack or Discord. A webhook's URL is a secret: whoever has it can write to the channel."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

TIMEOUT_S = 10.0
PAUSES_S = (2.0, 8.0, 30.0)
"""Before each further attempt."""
MAX_CHARS = 1_900
"""Discord refuses more than 2,000."""
MAX_QUEUED = 100
MAX_RETRY_AFTER_S = 60.0


class Webhook:
    """Sends messages from a thread of its own: a slow or broken server delays nothing and ends nothing."""

    def __init__(self, url: str, on_failure: Callable[[str], None], pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        """
        Args:
            url: takes a POST of JSON with `text` (Slack) and `content` (Discord).
            on_failure: called, by the thread, with the reason why a message was not taken; without the URL.
            pauses_s: before each further attempt of one message.
        """
        self._url, self._on_failure, self._pauses_s = url, on_failure, pauses_s
        self._messages: queue.Queue[str | None] = queue.Queue(MAX_QUEUED)
        self._thread = threading.Thread(target=self._send_all, name="webhook", daemon=True)
        self._thread.start()

    def send(self, message: str) -> None:
        """Send a message; returns at once. It is dropped if many before it could not be sent."""
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._on_failure(f"{MAX_QUEUED} messages wait; this one is dropped")

    def close(self, timeout_s: float) -> None:
        """Wait for the messages that are queued, at most so long."""
        try:
            self._messages.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _send_all(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                self._send_with_retries(message)
            except Exception as error:  # whatever it is, the night goes on
                self._on_failure(f"{shown(self._url)}: {type(error).__name__}")

    def _send_with_retries(self, message: str) -> None:
        for pause_s in (*self._pauses_s, None):
            reason, wait_s = self._post(message)
            if reason is None:
                return
            if pause_s is None or wait_s is None:
                self._on_failure(f"{shown(self._url)}: {reason}")
                return
            time.sleep(max(pause_s, wait_s))

    def _post(self, message: str) -> tuple[str | None, float | None]:
        """Why the server did not take a message, None if it did; and the wait it asks for, None if it refuses for good.

        The reason holds nothing of the URL, as the texts of some exceptions do.
        """
        text = message if len(message) <= MAX_CHARS else f"{message[: MAX_CHARS - 1]}…"
        body = json.dumps({"text": text, "content": text}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "wm"}
        try:
            request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                answer.read()
            return None, 0.0
        except urllib.error.HTTPError as error:
            is_temporary = error.code == 429 or error.code >= 500
            return f"the server answered {error.code}", _retry_after(error) if is_temporary else None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return f"no answer ({type(reason).__name__})", 0.0


def shown(url: str) -> str:
    """A webhook's URL as messages show it: the host alone."""
    return f"webhook at {urlsplit(url).hostname or '?'}"


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return min(MAX_RETRY_AFTER_S, max(0.0, float(error.headers.get("Retry-After") or 0)))
    except ValueError:
        return 0.0
