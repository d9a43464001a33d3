"""HTTP that ends: each call within its own deadline and number of bytes."""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

WRITE_BYTES = 16 * 1024


@dataclass
class Budget:
    """What one call may still take; `deadline` is on the monotonic clock."""

    deadline: float
    bytes_left: int

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.deadline - time.monotonic())


# A call reads and writes in one thread; the sockets below have no other way to know whose call it is.
_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def within(budget: Budget) -> Iterator[None]:
    """Hold every read and write of this thread to the budget."""
    token = _BUDGET.set(budget)
    try:
        yield
    finally:
        _BUDGET.reset(token)


def current() -> Budget:
    """What the call of this thread may still take."""
    budget = _BUDGET.get()
    if budget is None:
        raise RuntimeError("a call without a budget")
    return budget


def limited(network: httpcore2.NetworkBackend) -> httpcore2.NetworkBackend:
    """The network, its connections and streams held to the budget of the thread that uses them. The client's own time
    limits are per read: a server that drips holds a call for ever."""
    return _Backend(network)


@functools.cache
def trusted() -> ssl.SSLContext:
    """The authorities that are believed to say who a server is; loaded once, for that takes a while."""
    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *more: Any, **options: Any
    ) -> httpcore2.NetworkStream:
        timeout = _shorter(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, timeout, *more, **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, _shorter(timeout, httpcore2.ReadTimeout))
        budget = _BUDGET.get()
        if budget is not None:
            budget.bytes_left -= len(data)
            if budget.bytes_left < 0:
                raise httpcore2.ReadError("too many bytes")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # Its time limit is each send's: a reader who takes a little at a time would get it again and again.
        for start in range(0, len(buffer), WRITE_BYTES):
            piece = buffer[start : start + WRITE_BYTES]
            self._inner.write(piece, _shorter(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        timeout = _shorter(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _shorter(timeout: float | None, too_late: type[Exception]) -> float | None:
    budget = _BUDGET.get()
    if budget is None:
        return timeout
    left = budget.remaining()
    if left <= 0:
        raise too_late("deadline")
    return left if timeout is None else min(timeout, left)
