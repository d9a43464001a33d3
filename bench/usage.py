"""What running systems take: CPU and memory of process trees, and what their database connections are doing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import psycopg2

MIB = 2**20
HELD_MS = 700  # longer than one call of the real model: such a transaction was kept while a model was awaited


def tree(pid: int) -> Iterator[psutil.Process]:
    """The process and all that it has started and that still run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)


def cpu_seconds(pid: int) -> float:
    """Spent so far by the tree, including its ended and awaited members."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def resident_mib(pid: int) -> float:
    """Resident memory of the tree, summed: pages that its members share count for each of them."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / MIB


def proportional_mib(pid: int) -> float:
    """Memory of the tree in which a page that processes share counts once; resident memory where that is not told."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                told = process.memory_full_info()
                total += getattr(told, "pss", told.rss)
            except psutil.AccessDenied:
                total += process.memory_info().rss
    return total / MIB


@dataclass
class Peaks:
    """The most that was seen at one moment."""

    resident_mib: float = 0.0
    proportional_mib: float = 0.0
    connections: int = 0
    idle_in_transaction: int = 0
    held_in_transaction: int = 0


class Watch:
    """A context manager that looks again and again at one tree and its database; `peaks` is what it saw."""

    def __init__(self, pid: int, database_url: str, pause_seconds: float = 0.1) -> None:
        self.peaks = Peaks()
        self._pid, self._database_url, self._pause = pid, database_url, pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self.peaks

    def __exit__(self, *_fault: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look_at_memory()

    def _look(self) -> None:
        with contextlib.closing(psycopg2.connect(self._database_url)) as connection:
            connection.autocommit = True
            memory_due = 0.0
            while not self._stop.wait(self._pause):
                self._look_at_connections(connection)
                if time.monotonic() >= memory_due:  # it costs more than the question to the database
                    self._look_at_memory()
                    memory_due = time.monotonic() + 1.0

    def _look_at_connections(self, connection: psycopg2.extensions.connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%%'),"
                " count(*) FILTER (WHERE state LIKE 'idle in transaction%%'"
                "  AND clock_timestamp() - state_change > make_interval(secs => %s))"
                " FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
                " AND pid <> pg_backend_pid()",
                [HELD_MS / 1000],
            )
            connections, idle, held = cursor.fetchone() or (0, 0, 0)
        self.peaks.connections = max(self.peaks.connections, connections)
        self.peaks.idle_in_transaction = max(self.peaks.idle_in_transaction, idle)
        self.peaks.held_in_transaction = max(self.peaks.held_in_transaction, held)

    def _look_at_memory(self) -> None:
        self.peaks.resident_mib = max(self.peaks.resident_mib, resident_mib(self._pid))
        self.peaks.proportional_mib = max(self.peaks.proportional_mib, proportional_mib(self._pid))
