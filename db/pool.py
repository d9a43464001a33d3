"""Connections of this process: a bounded pool that waits in order and never hands out a dead connection."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import psycopg2


class PoolExhausted(Exception):
    """No connection became free in time."""


class Observer(Protocol):
    """Who is told how the pool is used; must be quick and must not raise."""

    def waited(self, seconds: float) -> None:
        """Somebody got a connection, or none, after so long."""

    def watch(self, usage: Callable[[], tuple[int, int]]) -> None:
        """Whom to ask how many connections are lent out, and how many stand by."""


class _Waiter:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.slot: Any = None
        self.served = False


class Pool:
    """At most `size` connections, made when first needed. psycopg2's own pool raises at once when it is empty,
    closes what it need not close and hands out connections that the server has closed."""

    def __init__(self, connect: Callable[[], Any], size: int, observer: Observer | None = None) -> None:
        self._connect = connect
        self._size = size
        self._observer = observer
        self._lock = threading.Lock()
        self._abandoned: list[Any] = []
        self._reset()
        if observer is not None:
            observer.watch(self.usage)

    def usage(self) -> tuple[int, int]:
        """How many connections are lent out, and how many stand by."""
        slots = list(self._slots)
        return self._size - len(slots), sum(slot is not None for slot in slots)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._slots: list[Any] = [None] * self._size
        self._waiters: deque[_Waiter] = deque()

    def checkout(self, timeout_seconds: float) -> Any:
        """A live psycopg2 connection outside any transaction. Raises PoolExhausted or psycopg2.OperationalError."""
        started = time.monotonic()
        try:
            return self._live(self._take(timeout_seconds))
        finally:
            if self._observer is not None:
                self._observer.waited(time.monotonic() - started)

    def checkin(self, connection: Any, *, broken: bool) -> None:
        """Return a connection exactly once; a broken one is closed and replaced when next needed."""
        if broken:
            connection.close()
        self._give(None if broken else connection)

    def close(self) -> None:
        """Close the idle connections; for tests and orderly exits."""
        with self._lock:
            self._leave_inherited()
            for slot in self._slots:
                if slot is not None:
                    slot.close()
            self._slots = [None] * len(self._slots)

    def _live(self, slot: Any) -> Any:
        try:
            return slot if slot is not None and _is_alive(slot) else self._connect()
        except BaseException:
            self._give(None)
            raise

    def _take(self, timeout_seconds: float) -> Any:
        with self._lock:
            self._leave_inherited()
            if self._slots and not self._waiters:
                return self._slots.pop()
            waiter = _Waiter()
            self._waiters.append(waiter)
        waiter.ready.wait(timeout_seconds)
        with self._lock:
            if not waiter.served:
                self._waiters.remove(waiter)
                raise PoolExhausted
        return waiter.slot

    def _leave_inherited(self) -> None:
        if self._pid != os.getpid():
            # Closing a connection inherited over fork would end the parent's session: keep it, never use it.
            self._abandoned.extend(self._slots)
            self._reset()

    def _give(self, slot: Any) -> None:
        with self._lock:
            if not self._waiters:
                self._slots.append(slot)
                return
            # Hand over in the order of asking: with a plain semaphore newcomers starve those who wait.
            waiter = self._waiters.popleft()
            waiter.slot, waiter.served = slot, True
            waiter.ready.set()


def _is_alive(connection: Any) -> bool:
    """An idle connection has nothing to read; a server that closed it left an end-of-file there. No round trip."""
    if connection.closed:
        return False
    try:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        readable = bool(poller.poll(0))
    except (OSError, psycopg2.Error):
        readable = True
    if readable:
        connection.close()
    return not readable
