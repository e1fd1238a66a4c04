"""A server that speaks the instance metadata services of EC2 (version 2, with tokens) and of Compute Engine."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetadataServer(ThreadingHTTPServer):
    """Answers with `documents`; EC2's only to a request with a token that it has issued."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.documents: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.num_requests = 0
        self.url = f"http://{address[0]}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21_600:
            self._answer(400, "")
            return
        self.server.tokens.add(token := secrets.token_urlsafe())
        self._answer(200, token)

    def do_GET(self) -> None:
        self.server.num_requests += 1
        if self.path.startswith("/latest/"):
            if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
                self._answer(401, "")
                return
        elif self.headers.get("Metadata-Flavor") != "Google":
            self._answer(403, "")
            return
        document = self.server.documents.get(self.path)
        self._answer(404 if document is None else 200, document or "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the output of tests clean."""


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """A running server."""
    server = MetadataServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
