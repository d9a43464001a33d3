"""gunicorn's threads, with two things of our own: a thread gets a request when it is here whole, and what cannot be
read at all is refused in the one shape of every error."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from gunicorn.http import wsgi
from gunicorn.http.errors import (  # type: ignore[attr-defined]  # newer than its types
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    ParseException,
)
from gunicorn.workers.gthread import ThreadWorker

from api import errors, metrics
from api.arrival import Arrival, State
from api.unreader import ArrivedUnreader

WHOLE_SECONDS = 20  # from a request's first byte to its last
REFUSED_SECONDS = 2  # for a client to read that it was refused, or to say its first word while the worker stops
GATHERED_BYTES = 64 * 1024 * 1024  # of one process: all requests on their way together
SEND_SECONDS = 30  # without a byte being taken
SAMPLE_SECONDS = 1
NOTIFY_SECONDS = 0.5
UNREAD_BYTES = 64 * 1024  # of a body that the app did not want; with more the connection ends
_READ_BYTES = 256 * 1024
_REASONS = {400: "Bad Request", 413: "Content Too Large", 500: "Internal Server Error", 503: "Service Unavailable"}
_TOO_LATE = errors.UNREADABLE._replace(
    message="The request did not arrive in time", details="Too slow", remediation="Send it without pausing"
)
_CROWDED = errors.FAULT._replace(
    status=503, message="Too many requests are on their way", details="Crowded", remediation="Try again shortly"
)
_REFUSALS = {State.HEAD_TOO_LONG: errors.UNREADABLE, State.BODY_TOO_LARGE: errors.HTTP[413]}

# Said in every answer; which software it is helps nobody but those who look for its holes.
wsgi.SERVER = "ICMP"  # type: ignore[attr-defined]  # its types leave it out


class _Client(socket.socket):
    """A client's connection, which waits, except where it is asked not to. gunicorn changes that four times a request,
    and each time Python lets another thread run."""

    def setblocking(self, flag: bool, /) -> None:
        """It stays as it is."""


class _Response(wsgi.Response):
    """Head and beginning of the body leave together, in one call."""

    def write(self, arg: bytes) -> None:
        """Send a piece of the body, after the head."""
        if self.headers_sent:
            super().write(arg)
            return
        client, together = self.sock, bytearray()
        self.sock = cast(socket.socket, _Gathering(together))
        try:
            super().write(arg)
        finally:
            self.sock = client
        client.sendall(together)


@dataclass(frozen=True)
class _Gathering:
    """Where gunicorn sends to, as far as it knows."""

    data: bytearray

    def sendall(self, data: bytes) -> None:
        self.data.extend(data)


wsgi.Response = _Response  # type: ignore[misc]  # what it answers with


class Worker(ThreadWorker):
    """As it comes, gthread gives a thread to every connection that sends its first byte: a few dozen clients that send
    the rest slowly or never stop everybody else. Here the main loop reads, and threads work."""

    whole_seconds: float = WHOLE_SECONDS

    def init_process(self) -> None:
        self._arriving: dict[Any, Arrival] = {}
        self._gathered = 0
        self._sampled_at = self._notified_at = float("-inf")
        # Asked for dozens of times a request, each time through two calls; in a worker they change no more.
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Called on the main thread for a connection that has, or will have, a request. Nearly always all of it is
        here by now; else it is waited for."""
        if self.cfg.is_ssl:
            super().enqueue_req(conn)
            return
        try:
            if not conn.initialized:
                _prepare(conn)
        except OSError:  # it is gone again
            self._close(conn)
            return
        arrival = Arrival(time.monotonic() + self.whole_seconds)
        try:
            data = conn.parser.unreader.take_buffered() or conn.sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait(conn, arrival)
            return
        except OSError:
            data = b""
        arrival.data += data
        if not data:
            self._close(conn)
        elif arrival.state() is State.WHOLE:
            self._hand_over(conn, arrival)
        else:
            self._wait(conn, arrival)

    def notify(self) -> None:
        """Called in each round of the main loop; the arbiter looks for it once a second."""
        now = time.monotonic()
        if now >= self._notified_at + NOTIFY_SECONDS:
            self._notified_at = now
            super().notify()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Called in a thread after the answer: whether the connection can be used again. What is left of a small body
        is read out of memory: gunicorn would set time limits, and take them back."""
        if self.cfg.is_ssl:
            return bool(super()._keepalive_after(conn, keepalive))  # type: ignore[misc]  # newer than its types
        unreader = conn.parser.unreader
        try:
            is_at_end = keepalive and conn.parser.finish_body(max_bytes=UNREAD_BYTES) and not unreader.is_dry
        except Exception:  # what is left cannot be read; another answer would be taken for the next request's
            return False
        if is_at_end:
            unreader.gather()
        return bool(is_at_end)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Called on the main thread after the answer. gunicorn would wait there for the client to hang up."""
        if self.cfg.is_ssl or (not fs.cancelled() and fs.exception() is None and fs.result()):
            super().finish_request(conn, fs)
            return
        conn.parser = None  # and with it what is left of the request
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            # Closed with something unread, the end of the answer would be lost.
            self._await(conn, Arrival(time.monotonic() + REFUSED_SECONDS, is_refused=True))
        except (OSError, ValueError):
            self._close(conn)

    def murder_pending(self) -> None:
        """Called at least once a second: those who took too long are told so."""
        super().murder_pending()
        now = time.monotonic()
        if now >= self._sampled_at + SAMPLE_SECONDS:
            self._sampled_at = now
            metrics.sample()
        for conn, arrival in list(self._arriving.items()):
            # A worker that stops does not wait for those who have said nothing yet.
            grace = 0 if self.alive or arrival.data or arrival.is_refused else self.whole_seconds - REFUSED_SECONDS
            if arrival.deadline - grace > now:
                continue
            if arrival.is_refused or not arrival.data:
                self._drop(conn)
            else:
                self._refuse(conn, arrival, _TOO_LATE)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002 — gunicorn's
        """Called for what the parser refuses and for what the app did not catch itself."""
        request_id = str(uuid.uuid4())
        is_ours = isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName)
        if isinstance(exc, ParseException) and not is_ours:
            self.log.warning("Invalid request from ip=%s", (addr or ("",))[0], extra={"request_id": request_id})
            row = errors.UNREADABLE
        else:
            self.log.error("Error handling request", exc_info=exc, extra={"request_id": request_id})
            row = errors.FAULT
        with contextlib.suppress(OSError):
            client.sendall(_answer(row, request_id))

    def _wait(self, conn: Any, arrival: Arrival) -> None:
        self._await(conn, arrival)
        self._judge(conn, arrival)

    def _await(self, conn: Any, arrival: Arrival) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        self._arriving[conn] = arrival
        self._gathered += len(arrival.data)

    def _on_readable(self, conn: Any, _sock: Any) -> None:
        arrival = self._arriving[conn]
        try:
            data = conn.sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._drop(conn)
            return
        if not data and arrival.data:
            self._forget(conn)
            self._hand_over(conn, arrival)  # it sends no more, but may wait for an answer to what it sent
        elif not data:
            self._drop(conn)
        elif not arrival.is_refused:
            arrival.data += data
            self._gathered += len(data)
            self._judge(conn, arrival)

    def _judge(self, conn: Any, arrival: Arrival) -> None:
        state = arrival.state()
        if state is State.WHOLE:
            self._forget(conn)
            self._hand_over(conn, arrival)
        elif state in _REFUSALS:
            self._refuse(conn, arrival, _REFUSALS[state])
        elif self._gathered > GATHERED_BYTES:
            self._refuse(conn, arrival, _CROWDED)
        else:
            self._gathered -= len(arrival.data)
            if arrival.takes_up_expectation():
                with contextlib.suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
            self._gathered += len(arrival.data)

    def _hand_over(self, conn: Any, arrival: Arrival) -> None:
        conn.parser.unreader.hold(bytes(arrival.data))
        super().enqueue_req(conn)

    def _refuse(self, conn: Any, arrival: Arrival, row: errors.Row) -> None:
        """Answer, and read on into nothing for a while: closed at once, the answer would be lost with the rest."""
        request_id = arrival.request_id()
        told = {"request_id": request_id, "error_code": row.error_code}
        self.log.warning("Refused a request from ip=%s: %s", (conn.client or ("",))[0], row.message, extra=told)
        self._gathered -= len(arrival.data)
        arrival.data.clear()
        arrival.is_refused, arrival.deadline = True, time.monotonic() + REFUSED_SECONDS
        with contextlib.suppress(OSError):
            conn.sock.send(_answer(row, request_id), socket.MSG_DONTWAIT)
            conn.sock.shutdown(socket.SHUT_WR)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        self._close(conn)

    def _forget(self, conn: Any) -> None:
        self.poller.unregister(conn.sock)
        self._gathered -= len(self._arriving.pop(conn).data)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()


def _prepare(conn: Any) -> None:
    """Make a new connection one that the main loop can read."""
    accepted = conn.sock
    accepted.setblocking(True)
    conn.sock = _Client(accepted.family, accepted.type, accepted.proto, accepted.detach())
    conn.init()
    conn.parser.unreader = ArrivedUnreader()
    # A second net: nothing that a thread still reads or writes may take for ever.
    for option, seconds in ((socket.SO_RCVTIMEO, WHOLE_SECONDS), (socket.SO_SNDTIMEO, SEND_SECONDS)):
        conn.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def _answer(row: errors.Row, request_id: str) -> bytes:
    """A whole response, and the end of the connection."""
    told = {
        "error_code": row.error_code,
        "message": row.message,
        "details": row.details,
        "remediation": row.remediation,
        "request_id": request_id,
    }
    body = json.dumps(told).encode() + b"\n"
    head = [
        f"HTTP/1.1 {row.status} {_REASONS[row.status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        *([f"Retry-After: {errors.RETRY_AFTER[row.status]}"] if row.status in errors.RETRY_AFTER else []),
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
