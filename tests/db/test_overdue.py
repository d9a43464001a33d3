"""A server that stands still holds nobody for long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import db

PATIENCE_SECONDS = 1.0


@pytest.fixture
def database(database_url: str) -> Iterator[db.Database]:
    """One connection."""
    made = db.Database(database_url, pool_size=1, answer_seconds=PATIENCE_SECONDS)
    yield made
    made.close()


def _backend(database: db.Database) -> int:
    return int(database.once(None, "SELECT pg_backend_pid()")[0][0])


@contextmanager
def _standing_still(backend: int) -> Iterator[None]:
    """For as long as anybody should wait, and no longer: a test must fail, not hang."""
    os.kill(backend, signal.SIGSTOP)
    wakes = threading.Timer(PATIENCE_SECONDS + 10, os.kill, (backend, signal.SIGCONT))
    wakes.start()
    try:
        yield
    finally:
        wakes.cancel()
        os.kill(backend, signal.SIGCONT)


def test_an_answer_that_does_not_come_is_waited_for_a_while_and_not_for_ever(database: db.Database) -> None:
    backend = _backend(database)
    with _standing_still(backend):
        started = time.monotonic()
        with pytest.raises(db.DatabaseUnavailable):
            database.once(None, "SELECT 1")
        assert PATIENCE_SECONDS <= time.monotonic() - started < PATIENCE_SECONDS + 10
        assert _backend(database) != backend


def test_so_is_a_commit_that_does_not_end(database: db.Database) -> None:
    with ExitStack() as stack, pytest.raises(db.DatabaseUnavailable), database.transaction(None) as conn:
        [(backend,)] = db.fetch_all(conn, "SELECT pg_backend_pid()")
        stack.enter_context(_standing_still(backend))


def test_whoever_is_answered_in_time_keeps_the_connection(database: db.Database) -> None:
    backend = _backend(database)
    with database.transaction(None) as conn:
        for _ in range(3):  # together they take longer than one may
            db.execute(conn, "SELECT pg_sleep(%s)", [PATIENCE_SECONDS / 2])
        time.sleep(PATIENCE_SECONDS * 1.5)  # what is done between statements is not the server's fault
        db.execute(conn, "SELECT 1")
    assert _backend(database) == backend


def test_a_statement_that_may_take_longer_is_waited_for(database: db.Database) -> None:
    with database.transaction(None) as conn:
        db.allow_seconds(conn, PATIENCE_SECONDS * 3)
        db.execute(conn, "SELECT pg_sleep(%s)", [PATIENCE_SECONDS * 2])
    with pytest.raises(db.DatabaseUnavailable), database.transaction(None) as conn:  # the next one may not
        db.execute(conn, "SELECT pg_sleep(%s)", [PATIENCE_SECONDS * 3])


def test_after_a_fork_the_child_watches_its_own_connections(database: db.Database) -> None:
    backend = _backend(database)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with _standing_still(_backend(database)), pytest.raises(db.DatabaseUnavailable):
                database.once(None, "SELECT 1")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert _backend(database) == backend
    assert [thread.name for thread in threading.enumerate()].count("icmp-overdue") == 1
