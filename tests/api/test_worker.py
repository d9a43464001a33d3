"""The app behind gunicorn and nothing else in front: slow, broken and lying clients, and those who are none of it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.api import gunicorn_server
from tests.api.gunicorn_server import Served

PATIENCE = 30
HOST = "Host: icmp.example"
JSON = "Content-Type: application/json"
HALF_SENT = [
    b"G",
    b"GET /healthz HTTP/1.1\r\nHost: icmp.exam",
    b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab\r\n\r\n",
]


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """gunicorn with one thread."""
    with gunicorn_server.running(tmp_path_factory.mktemp("served"), database_url, WEB_THREADS="1") as server:
        yield server


@pytest.fixture(scope="module")
def hasty(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """gunicorn with little patience."""
    worker = "tests.api.hasty_worker.HastyWorker"
    with gunicorn_server.running(tmp_path_factory.mktemp("hasty"), database_url, worker=worker) as server:
        yield server


def _connected(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection that stays open."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = dict(line.lower().split(b": ", 1) for line in iter(lambda: reader.readline().strip(), b""))
    return status, reader.read(int(headers.get(b"content-length", 0)))


def _refusal(answer: bytes) -> tuple[int, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    told: dict[str, str] = json.loads(body)
    assert set(told) == {"error_code", "message", "details", "remediation", "request_id"}
    headers = head.decode().lower().split("\r\n")
    assert f"x-request-id: {told['request_id']}" in headers
    assert {"content-type: application/json", "x-content-type-options: nosniff"} <= set(headers)
    return int(head.split()[1]), told


def test_many_half_sent_requests_stop_nobody(served: Served) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(_connected(served)) for _ in range(40)]
        for number, connection in enumerate(slow):
            connection.sendall(HALF_SENT[number % len(HALF_SENT)])
        for _ in range(5):
            assert b"200 OK" in served.exchange(f"GET /healthz HTTP/1.1\r\n{HOST}\r\n\r\n".encode())
        # Slow is not wrong: whoever goes on is answered.
        slow[1].sendall(b"ple\r\n\r\n")
        assert _answer(slow[1])[0] == 200


def test_a_request_may_come_byte_by_byte_and_the_next_one_right_behind(served: Served) -> None:
    body = b'{"businessApiKey": "icmp_biz_none"}'
    head = f"POST /api/save-config HTTP/1.1\r\n{HOST}\r\n{JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    ahead = f"GET /healthz HTTP/1.1\r\n{HOST}\r\n\r\n".encode()
    with _connected(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + body:
            connection.sendall(bytes([byte]))
        assert _answer(connection)[0] == 401
        connection.sendall(ahead)
        assert _answer(connection)[0] == 200
    assert served.exchange(ahead + head + body + ahead).count(b"HTTP/1.1 ") == 3


def test_who_asks_before_sending_a_body_is_told_to_go_on(served: Served) -> None:
    event = json.dumps([{"event_id": str(uuid.uuid4())}]).encode()
    head = f"POST /api/v1/events HTTP/1.1\r\n{HOST}\r\n{JSON}\r\nExpect: 100-continue\r\nContent-Length: {len(event)}"
    with _connected(served) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(event)
        status, body = _answer(connection)
        assert (status, json.loads(body)["error_code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("sent", HALF_SENT)
def test_a_request_that_never_becomes_whole_is_told_so(sent: bytes, hasty: Served) -> None:
    with _connected(hasty) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    status, told = _refusal(answer)
    assert (status, told["error_code"]) == (400, "INVALID_REQUEST")
    assert "in time" in told["message"]


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty: Served) -> None:
    with _connected(hasty) as connection:
        assert connection.recv(100) == b""


UNREADABLE = {
    "no request line": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "unknown version": b"GET /healthz HTTP/9.9\r\n\r\n",
    "method of strange letters": b"G<script>T /healthz HTTP/1.1\r\n\r\n",
    "line too long": b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
    "header without a name": b"GET /healthz HTTP/1.1\r\n: x\r\n\r\n",
    "blank before the colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n",
    "NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n",
    "too many headers": b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 101 + b"\r\n",
    "header too long": b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
    "head without end": b"GET /healthz HTTP/1.1\r\n" + b"X-A: " + b"a" * 70_000,
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "unknown expectation": b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: gold\r\n\r\n",
}
POST = b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 34\r\n\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 0, 34\r\n\r\n" + HIDDEN,
    "signed length": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "length in hex": POST + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "length with a blank inside": POST + b"Content-Length: 0 0\r\n\r\n" + HIDDEN,
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked before another": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "coding after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("case", [*UNREADABLE, *SMUGGLED])
def test_what_cannot_be_read_is_one_json_error_and_the_end(case: str, served: Served) -> None:
    answer = served.exchange((UNREADABLE | SMUGGLED)[case])
    status, told = _refusal(answer)
    assert (status, told["error_code"]) == (400, "INVALID_REQUEST")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"<" not in answer


@pytest.mark.parametrize(
    "length",
    [b"Content-Length: 4194305", b"Content-Length: 10485760", b"Content-Length: 99999999999999999999999999"],
)
def test_too_large_a_body_is_refused_at_its_announcement(length: bytes, served: Served) -> None:
    for path in (b"/api/v1/events", b"/api/v1/messages", b"/nowhere"):
        with _connected(served) as connection:
            connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n{")
            status, body = _answer(connection)
        assert status in {413, 415, 404, 401}
        assert set(json.loads(body)) == {"error_code", "message", "details", "remediation", "request_id"}


def test_ten_mebibytes_without_a_length_are_refused(served: Served) -> None:
    with _connected(served) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        try:
            for _ in range(160):
                connection.sendall(chunk)
        except ConnectionError:
            pass  # closed while we were still talking
        status, body = _answer(connection)
    assert (status, json.loads(body)["error_code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("size", "is_kept"), [(1_000, True), (4 * 1024 * 1024, False)], ids=["a small one", "a large one"]
)
def test_a_body_that_nobody_wants_costs_next_to_nothing(size: int, is_kept: bool, served: Served) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    with _connected(served) as connection:
        connection.sendall(head + b" " * size)
        assert _answer(connection)[0] == 404
        connection.sendall(HIDDEN)
        if is_kept:
            assert _answer(connection)[0] == 200
        else:
            assert connection.recv(100) == b"", "the connection ends"


LIES = {
    "length with many zeros": b"Content-Length: 00000000000000000000000000000000005\r\n\r\nabc",
    "length beyond all": b"Content-Length: 99999999999999999999999999\r\n\r\nabc",
    "chunk beyond all": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc",
    "chunk with many zeros": b"Transfer-Encoding: chunked\r\n\r\n00000000000000000000005\r\nabc",
    "no length at all": b"Content-Length: " + b"0" * 60_000 + b"x\r\n\r\nabc",
    "no chunk at all": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "endless trailers": b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000,
    "endless line of a chunk": b"Transfer-Encoding: chunked\r\n\r\n5" + b";a=b" * 1500,
}


@pytest.mark.parametrize("case", LIES)
def test_no_thread_waits_for_a_body_that_does_not_come(case: str, hasty: Served) -> None:
    """One thread answers all: it would be busy for 20 seconds."""
    with ExitStack() as stack:
        liars = [stack.enter_context(_connected(hasty)) for _ in range(2)]
        for liar, path in zip(liars, (b"/nowhere", b"/api/v1/events"), strict=True):
            with contextlib.suppress(ConnectionError):  # refused while it was still talking
                liar.sendall(POST.replace(b"/api/v1/events", path) + LIES[case])
        started = time.monotonic()
        assert b"200 OK" in hasty.exchange(HIDDEN)
        assert time.monotonic() - started < 10
        for liar in liars:
            liar.settimeout(10)
            answer = b""
            with contextlib.suppress(ConnectionError):
                for piece in iter(lambda: liar.recv(4096), b""):  # noqa: B023 — read out at once
                    answer += piece
            assert answer.count(b"HTTP/1.1 ") <= 1
            assert b" 200 " not in answer


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(served: Served) -> None:
    answer = served.exchange(POST + b"Content-Length: 100\r\n\r\n[]")
    status, told = _refusal(answer)
    assert (status, told["error_code"]) == (400, "INVALID_REQUEST")
    assert "breaks off" in str(told)


def test_a_body_in_very_many_pieces_is_refused(served: Served) -> None:
    with _connected(served) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 16_500)
        status, body = _answer(connection)
    assert (status, json.loads(body)["error_code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_who_does_not_hang_up_delays_nobody(served: Served) -> None:
    """Each of them would stop the main loop for two seconds."""
    started = time.monotonic()
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(_connected(served))
            connection.sendall(f"GET /healthz HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode())
            connection.settimeout(PATIENCE)
            assert _answer(connection)[0] == 200
            assert connection.recv(100) == b"", "the server has said all"
        assert b"200 OK" in served.exchange(HIDDEN)
    assert time.monotonic() - started < 20


def test_an_answer_and_the_end_of_a_connection_come_together(served: Served) -> None:
    with _connected(served) as connection:
        connection.sendall(POST + b"Connection: close\r\nContent-Length: 100000\r\n\r\n" + b" " * 100_000)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 4")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"]
