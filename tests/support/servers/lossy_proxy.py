"""A port forward to a Jobs API that loses answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class LossyProxy(ThreadingHTTPServer):
    """Passes requests on to `target`; those in `to_lose` are answered there, and the connection is closed here.

    Attributes:
        to_lose: number of answers still to lose, by method and path.
        lost: requests whose answers were lost, in order.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.url = target, f"http://127.0.0.1:{self.server_port}"
        self.to_lose: dict[tuple[str, str], float] = {}
        self.lost: list[tuple[str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Pass on."""
        proxy = self.server
        assert isinstance(proxy, LossyProxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Accept-Encoding")}
        request = urllib.request.Request(proxy.target + self.path, body, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, answered = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, answered = error.code, error.read()
        asked = (self.command, self.path)
        if proxy.to_lose.get(asked, 0) > 0:
            proxy.to_lose[asked] -= 1
            proxy.lost.append(asked)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answered)))
        self.end_headers()
        self.wfile.write(answered)

    do_POST = do_PUT = do_GET  # noqa: N815, names of the standard library

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def lossy_proxy(target: str) -> Iterator[LossyProxy]:
    """A proxy to the URL `target`, for the time of the block."""
    with LossyProxy(target) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
