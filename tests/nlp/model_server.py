"""A model server on a local port whose faults are scripted, request by request."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nlp import llm
from nlp.errors import ModelUnavailable

REQUEST = llm.Request("response_generation", ({"role": "user", "content": "my secret words"},), None, "m-1")
Behaviour = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Plays one behaviour a request, the last one again and again; `bodies` has what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Behaviour] = [answers()]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ports: set[int] = set()
        self.flooded = 0
        self.released = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # What was written last would be lost with a connection that is aborted.
    disable_nagle_algorithm = True
    server: Server
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(self.body)
            self.server.ports.add(self.client_address[1])
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            script = self.server.script
            behaviour = script.pop(0) if len(script) > 1 else script[0]
        behaviour(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.begin(status, len(body), **headers)
        self.wfile.write(body)

    def begin(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def running() -> Iterator[Server]:
    """A server on a port of its own, gone afterwards."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def reply(content: str | None = "Hello.", **changes: Any) -> dict[str, Any]:
    """The body of a good answer, its message and choice changed as wanted."""
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {"index": 0, "finish_reason": changes.pop("finish_reason", "stop"), "message": message}
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    return {"id": "c1", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage} | changes


def answers(body: Any = None, status: int = 200, **headers: str) -> Behaviour:
    """Answer with this body: JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(reply() if body is None else body).encode()
    return lambda handler: handler.send(status, content, **headers)


def fails(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Behaviour:
    """An error in OpenAI's form."""
    return answers(
        {"error": {"message": message, "type": "x", "param": None, "code": None} | error}, status, **headers or {}
    )


def hangs(handler: Handler) -> None:
    """Never answer, as long as the test runs."""
    handler.server.released.wait(30)
    handler.close_connection = True


def drips(handler: Handler) -> None:
    """A byte now and then: no single read takes long."""
    handler.begin(200, 100_000)
    _drip(handler)


def drips_headers(handler: Handler) -> None:
    """The same before the body begins."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _drip(handler)


def drips_error(handler: Handler) -> None:
    """An error whose body does not end."""
    handler.begin(400, 100_000)
    _drip(handler)


def _drip(handler: Handler) -> None:
    handler.close_connection = True
    while not handler.server.released.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def stalls(handler: Handler) -> None:
    """Begin to answer, then stop."""
    handler.begin(200, 1000)
    handler.wfile.write(b"{")
    handler.wfile.flush()
    hangs(handler)


def cuts(handler: Handler) -> None:
    """Hang up in the middle of the body."""
    content = json.dumps(reply()).encode()
    handler.begin(200, len(content))
    handler.wfile.write(content[:40])
    handler.close_connection = True


def resets(handler: Handler) -> None:
    """Abort the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def floods(status: int) -> Behaviour:
    """Far more bytes than anybody wants."""

    def flood(handler: Handler) -> None:
        handler.begin(status, 200_000_000)
        handler.close_connection = True
        for _ in range(3000):
            handler.wfile.write(b"x" * 65_536)
            handler.server.flooded += 65_536

    return flood


def model(server: Server, pauses: list[float] | None = None, **changes: Any) -> llm.Model:
    """A model whose pauses between tries are written down instead of waited for, each as long as can be."""
    sleep = (pauses if pauses is not None else []).append
    settings: dict[str, Any] = {"call_timeout_s": 5.0, "sleep": sleep, "uniform": lambda _low, high: high}
    return llm.Model("sk-secret", server.url, **(settings | changes))


def refused(asked: llm.Model, request: llm.Request = REQUEST) -> ModelUnavailable:
    """Why the model is unavailable."""
    with pytest.raises(ModelUnavailable) as caught:
        asked.ask(request)
    return caught.value
