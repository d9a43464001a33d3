"""Answers that do not come. The server ends statements that take too long, but nothing ends a server that stands still,
or one that waits for its disk; and the driver would wait for as long."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg2
import psycopg2.extensions

CHECK_SECONDS = 0.5


class Connection(psycopg2.extensions.connection):
    """One that breaks when an answer is overdue, as if the server had ended it."""

    patience_seconds = float("inf")  # for the answer to a statement
    overdue_at: float | None = None  # on the monotonic clock, while a statement is on its way


class Cursor(psycopg2.extensions.cursor):
    """Notes until when its statement's answer is awaited."""

    def execute(self, query: Any, vars: Any = None) -> None:
        """As the driver does."""
        connection: Any = self.connection
        connection.overdue_at = time.monotonic() + connection.patience_seconds
        try:
            super().execute(query, vars)
        finally:
            connection.overdue_at = None


def watch(connection: Connection) -> None:
    """From now on no answer on this connection is waited for longer than its patience."""
    _watch.add(connection)


class _Watch:
    """The connections of this process, and the thread that looks at them."""

    def __init__(self) -> None:
        self.begin_anew()
        # Over a fork no thread comes along, and the connections are the parent's.
        os.register_at_fork(after_in_child=self.begin_anew)

    def begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connections: WeakSet[Connection] = WeakSet()

    def add(self, connection: Connection) -> None:
        with self._lock:
            self._connections.add(connection)
            if self._thread is None:
                thread = threading.Thread(target=self._look, name="icmp-overdue", daemon=True)
                thread.start()
                self._thread = thread

    def _look(self) -> None:
        while True:
            time.sleep(CHECK_SECONDS)
            with self._lock:
                connections = list(self._connections)
            for connection in connections:
                overdue_at = connection.overdue_at
                if overdue_at is not None and overdue_at < time.monotonic():
                    _break(connection, overdue_at)


def _break(connection: Connection, overdue_at: float) -> None:
    """End the stream under it: whoever waits there reads that the server has gone."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as stream:
        if connection.overdue_at == overdue_at:  # the same statement, so this is still its stream
            stream.shutdown(socket.SHUT_RDWR)


_watch = _Watch()
