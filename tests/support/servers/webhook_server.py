"""A real HTTP server on loopback that takes messages, as Slack and Discord do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "T0KEN"
"""In the path of the URL."""


@dataclass
class WebhookServer:
    """What it got, and what it answers."""

    url: str = ""
    messages: list[dict] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Status codes of the next answers; then 200."""
    is_silent: threading.Event = field(default_factory=threading.Event)
    """While set, requests get no answer."""


@contextmanager
def webhook_server() -> Iterator[WebhookServer]:
    """Run a server."""
    found = WebhookServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            while found.is_silent.is_set():
                found.is_silent.wait(0.05)
                threading.Event().wait(0.05)
            status = found.answers.pop(0) if found.answers else 200
            if status == 200:
                found.messages.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.is_silent.clear()
        server.shutdown()
        server.server_close()
        thread.join()
