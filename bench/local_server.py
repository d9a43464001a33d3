"""What the oracle and the rows server share: HTTP on 127.0.0.1 for as long as a play lasts."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON, without a word on standard error, which is kept for the player's own."""

    protocol_version = "HTTP/1.1"
    # A small answer would otherwise wait 40 ms for the peer's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def get(self) -> None:
        """Answer a GET."""
        self.send_error_json(404, f"unknown path {self.path}")

    def post(self, _body: bytes) -> None:
        """Answer a POST with this body."""
        self.send_error_json(404, f"unknown path {self.path}")

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def send_json(self, status: int, body: Any) -> None:
        """One whole answer."""
        payload = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def send_error_json(self, status: int, message: str) -> None:
        """An error in the shape that a model's API has."""
        self.send_json(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})


class Server(ThreadingHTTPServer):
    """A context manager; listens from its making, answers inside the `with`, and has no thread left after it."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, handler: type[Handler], port: int) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # An app that is stopped or gives up a call breaks its connections: no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        # Kept-alive connections would hold their threads, and so the join, for ever.
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()
