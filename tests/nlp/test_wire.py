"""The transport below model calls, against real sockets: connections kept and dropped, budgets, hostile responses."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from nlp import bounded, llm, wire
from tests.nlp import model_server, web_server
from tests.nlp.model_server import REQUEST

TOLD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(*talks: Talk) -> Iterator[str]:
    """A server that has one of these talks with each connection; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            for talk in talks:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        thread.join()


def says(*pieces: bytes) -> Talk:
    """Answers each request with the next piece, and hangs up after the last one."""

    def talk(connection: socket.socket) -> None:
        for piece in pieces:
            connection.recv(65536)
            connection.sendall(piece)

    return talk


def called(transport: wire.Transport, url: str, *, byte_cap: int = 10_000, seconds: float = 10) -> bytes:
    """One call's body."""
    with bounded.within(bounded.Budget(time.monotonic() + seconds, byte_cap)):
        response = transport.handle_request(httpx2.Request("POST", url, content=b"{}"))
        try:
            return response.read()
        finally:
            response.close()


def test_a_connection_is_used_again_until_the_server_closes_it() -> None:
    with listening(says(TOLD, TOLD), says(TOLD)) as url:
        transport = wire.Transport(2)
        assert called(transport, url) == called(transport, url) == b"ok"
        time.sleep(0.1)  # until the end-of-file is here
        assert called(transport, url) == b"ok"


def test_a_body_left_unread_costs_its_connection() -> None:
    with listening(says(TOLD), says(TOLD)) as url:
        transport = wire.Transport(2)
        with bounded.within(bounded.Budget(time.monotonic() + 10, 1000)):
            transport.handle_request(httpx2.Request("POST", url, content=b"{}")).close()
        assert called(transport, url) == b"ok"


def test_no_more_connections_are_kept_than_it_may() -> None:
    gone = threading.Event()

    def notices(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(TOLD)
        if not connection.recv(1):
            gone.set()

    with listening(notices, says(TOLD)) as url, listening(says(TOLD)) as other:
        transport = wire.Transport(1)
        assert called(transport, url) == called(transport, other) == b"ok"
        assert gone.wait(10)
        assert called(transport, url) == b"ok"


@pytest.mark.parametrize(
    "told",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsoon\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/2 200\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 twohundred\r\n\r\n",
        b"\x16\x03\x01 hello",
        b"",
    ],
)
def test_what_is_no_response_is_a_fault_of_the_transport(told: bytes) -> None:
    with listening(says(told)) as url, pytest.raises(httpx2.TransportError):
        called(wire.Transport(1), url, byte_cap=200_000)


@pytest.mark.parametrize(
    ("told", "is_kept"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + TOLD, True),
        (b"HTTP/1.1 200\r\ncontent-length:2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nX-Note: folded\r\n and: on\r\n\tand on\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    ],
)
def test_a_connection_is_kept_when_its_response_says_so(told: bytes, is_kept: bool) -> None:
    with listening(*([says(told, TOLD)] if is_kept else [says(told), says(TOLD)])) as url:
        transport = wire.Transport(1)
        assert called(transport, url) == called(transport, url) == b"ok"


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    with listening(says(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as url:
        assert called(wire.Transport(1), url) == b"all of it"


def test_chunks_are_handed_on_as_they_come() -> None:
    heard = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert heard.wait(10)
        connection.sendall(b"4\r\nlast\r\n0\r\n\r\n")

    with listening(talk) as url, bounded.within(bounded.Budget(time.monotonic() + 10, 1000)):
        pieces = wire.Transport(1).handle_request(httpx2.Request("POST", url, content=b"{}")).iter_bytes()
        assert next(pieces) == b"first"
        heard.set()
        assert b"".join(pieces) == b"last"


def test_a_server_that_drips_is_left_at_the_deadline() -> None:
    def drips(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    with listening(drips) as url, pytest.raises(httpx2.ReadTimeout):
        called(wire.Transport(1), url, seconds=0.3)


def test_a_server_that_takes_a_request_a_little_at_a_time_is_left_at_the_deadline() -> None:
    def sips(connection: socket.socket) -> None:
        while connection.recv(50_000):
            time.sleep(0.05)

    started = time.monotonic()
    with listening(sips) as url, bounded.within(bounded.Budget(started + 0.3, 1000)):
        asked = httpx2.Request("POST", url, content=b"x" * 40_000_000)
        with pytest.raises(httpx2.ReadTimeout):
            wire.Transport(1).handle_request(asked)
        assert time.monotonic() - started < 3


def test_a_header_with_a_line_break_is_not_sent() -> None:
    with listening(says()) as url, bounded.within(bounded.Budget(time.monotonic() + 10, 1000)):
        asked = httpx2.Request("POST", url, headers={"Authorization": "Bearer a\r\nX-More: b"}, content=b"{}")
        with pytest.raises(httpx2.LocalProtocolError):
            wire.Transport(1).handle_request(asked)


def test_only_a_certificate_that_fits_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, believing = web_server.certificate(tmp_path, "localhost")
    with web_server.running(mine) as server:
        server.tells({"a": 1})
        with pytest.raises(httpx2.TransportError):
            called(wire.Transport(1), f"https://localhost:{server.server_port}/")
        monkeypatch.setattr(bounded, "trusted", lambda: believing)
        assert called(wire.Transport(1), f"https://localhost:{server.server_port}/") == b'{"a": 1}'
        with pytest.raises(httpx2.TransportError):
            called(wire.Transport(1), f"https://127.0.0.1:{server.server_port}/")
    assert isinstance(believing, ssl.SSLContext)


def test_a_password_in_the_address_is_sent_as_basic_authentication() -> None:
    with model_server.running() as server:
        llm.Model("key", server.url.replace("://", "://user:pass@")).ask(REQUEST)
        assert server.headers[0]["authorization"] == "Basic dXNlcjpwYXNz"
