"""HTTP/1.1 to a server that is asked again and again: kept connections, every call within its budget of time and bytes.

httpx2's own transport takes five times as long for a call; here the standard library reads the response."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import httpx2

from nlp import bounded

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?= |$)")
_HEAD_BYTES = 64 * 1024
_FOLD = re.compile(rb"\r?\n[ \t]+")
_PORTS = {"http": 80, "https": 443}


class Transport(httpx2.BaseTransport):
    """Safe to share between threads. Calls only inside `bounded.within`; keeps up to so many idle connections."""

    def __init__(self, connections: int) -> None:
        self._lock = threading.Lock()
        self._idle: deque[_Connection] = deque(maxlen=connections)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body unread. Raises httpx2.TransportError."""
        with _TRANSLATED:
            connection = self._taken(request.url) or _Connection(request.url)
            try:
                body = request.read()
                connection.send(_head(request, len(body)) + body)
                response = connection.response(request.method)
            except BaseException:
                connection.close()
                raise
        told = httpx2.Response(response.status, headers=response.fields, stream=_Body(self, connection, response))
        told.headers.encoding = "iso-8859-1"  # as HTTP has it; else each header would be tried in others first
        return told

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next call; its last response was read to the end."""
        connection.idle_since = time.monotonic()
        with self._lock:
            # A full deque would lose its other end unclosed.
            outdated = self._idle.popleft() if len(self._idle) == self._idle.maxlen else None
            self._idle.append(connection)
        if outdated is not None:
            outdated.close()

    def _taken(self, url: httpx2.URL) -> _Connection | None:
        """An idle connection to that server, the one used last, for it is the least likely to be closed by now."""
        origin = _origin(url)
        while True:
            with self._lock:
                found = next((each for each in reversed(self._idle) if each.origin == origin), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if found.is_alive():
                return found
            found.close()


class _Connection:
    """A connection to one server, connected when it is made; looks like a socket to http.client."""

    def __init__(self, url: httpx2.URL) -> None:
        self.origin = _origin(url)
        self.idle_since = 0.0
        _, host, port = self.origin
        self._socket: socket.socket = socket.create_connection((host, port), min(CONNECT_SECONDS, _seconds()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "https":
            self._socket = self._secured(host)

    def _secured(self, host: str) -> ssl.SSLSocket:
        try:
            self._socket.settimeout(min(CONNECT_SECONDS, _seconds()))
            return bounded.trusted().wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        # With TLS the time limit of sendall is each send's: a reader who takes a little at a time would get it anew.
        for start in range(0, len(data), bounded.WRITE_BYTES):
            self._socket.settimeout(_seconds())
            self._socket.sendall(data[start : start + bounded.WRITE_BYTES])

    def response(self, method: str) -> _Response:
        """The next response, its head read."""
        response = _Response(cast(socket.socket, self), method=method)
        response.begin()
        return response

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As of a socket; closing it leaves the connection open."""
        return io.BufferedReader(_Incoming(self._socket))

    def is_alive(self) -> bool:
        """An idle connection has nothing to read; a server that closed it left an end-of-file there."""
        if time.monotonic() - self.idle_since > KEEPALIVE_SECONDS:
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class _Response(http.client.HTTPResponse):
    """Reads its head itself: the standard library takes it for an email, and as long as for all the rest of a call."""

    fields: list[tuple[bytes, bytes]]

    def begin(self) -> None:
        """Read the head, past those that only announce it. Raises HTTPException."""
        self.status = 100
        while self.status < 200:
            minor = self._read_head()
        first = {name.lower(): value.lower() for name, value in reversed(self.fields)}
        self.chunked = first.get(b"transfer-encoding") == b"chunked"
        self.chunk_left = None
        length = first.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() and not self.chunked else None
        if self.status in (204, 304):
            self.length = 0
        options = first.get(b"connection", b"")
        is_kept = b"close" not in options if minor else b"keep-alive" in options
        self.will_close = not is_kept or (self.length is None and not self.chunked)

    def _read_head(self) -> int:
        """Read a status and fields; HTTP/1's minor version."""
        lines = self._lines()
        match = _STATUS.match(lines[0])
        if match is None:
            raise http.client.BadStatusLine("")
        named = [line.partition(b":") for line in lines[1:]]
        if not all(colon for _, colon, _ in named):
            raise http.client.HTTPException("a header without a name")
        self.status = int(match[2])
        self.fields = [(name, value.strip()) for name, _, value in named]
        return int(match[1])

    def _lines(self) -> list[bytes]:
        """The lines of a head, which is followed by an empty one."""
        head = line = self.fp.readline(_HEAD_BYTES)
        while line not in (b"\r\n", b"\n"):
            line = self.fp.readline(_HEAD_BYTES)
            head += line
            if not line or len(head) > _HEAD_BYTES:
                raise http.client.HTTPException("a head without an end")
        return _FOLD.sub(b" ", head[: -len(line)]).splitlines() or [b""]


class _Incoming(io.RawIOBase):
    """What comes over a socket, as long as the call's budget lasts."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._source.settimeout(_seconds())
        count = self._source.recv_into(buffer)
        _spend(count)
        return count


class _Body(httpx2.SyncByteStream):
    """The rest of a response. A connection whose body was read to its end is kept."""

    def __init__(self, owner: Transport, connection: _Connection, response: _Response) -> None:
        self._owner, self._connection, self._response = owner, connection, response
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        with _TRANSLATED:
            if self._response.length is not None and not self._response.chunked:
                # Before room is made for it.
                _spend(0, ahead=self._response.length)
                yield self._response.read()
                return
            while piece := self._response.read1(_PIECE_BYTES):
                yield piece

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._response.isclosed() and not self._response.will_close:
            self._owner.give_back(self._connection)
        else:
            self._response.close()
            self._connection.close()


def pieces(response: httpx2.Response) -> Iterator[bytes]:
    """A response's body as it comes. The client's own way through its decoders costs more than the reading."""
    if "content-encoding" in response.headers or not isinstance(response.stream, httpx2.SyncByteStream):
        return response.iter_bytes()
    return iter(response.stream)


def _head(request: httpx2.Request, length: int) -> bytes:
    told, has_length = _told(request.method, request.url.raw_path, tuple(request.headers.raw))
    return told + (b"\r\n" if has_length else b"Content-Length: %d\r\n\r\n" % length)


@functools.lru_cache(maxsize=64)
def _told(method: str, path: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """The lines of a head, the same for nearly every call, and whether they tell the body's length."""
    lines = [b"%s %s HTTP/1.1" % (method.encode(), path), *(b"%s: %s" % header for header in headers)]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1:
        raise httpx2.LocalProtocolError("a header with a line break in it")
    return head + b"\r\n", b"content-length" in {name.lower() for name, _ in headers}


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme]


def _seconds() -> float:
    left = bounded.current().remaining()
    if left <= 0:
        raise TimeoutError
    return left


def _spend(count: int, ahead: int = 0) -> None:
    budget = bounded.current()
    budget.bytes_left -= count
    if budget.bytes_left < ahead:
        budget.bytes_left = -1
        raise http.client.HTTPException("too many bytes")


class _Translated:
    """Every fault of the network leaves as one of httpx2's, without any of the texts that came with it. Written out:
    each call passes here twice, and a generator costs three times as much."""

    def __enter__(self) -> None:
        """Nothing is kept."""

    def __exit__(self, _kind: object, fault: BaseException | None, _trace: object) -> None:
        if isinstance(fault, TimeoutError):
            raise httpx2.ReadTimeout("too late") from None
        if isinstance(fault, OSError | http.client.HTTPException | ValueError):
            raise httpx2.ReadError(type(fault).__name__) from None


_TRANSLATED = _Translated()
