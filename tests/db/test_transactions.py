"""Transactions on real connections: all or nothing, never a dead connection, in order, never shared over fork."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest

import db
from tests.conftest import Client

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def database(database_url: str) -> Iterator[db.Database]:
    """One connection, and little patience."""
    made = db.Database(database_url, pool_size=1, checkout_seconds=5.0)
    yield made
    made.close()


def _insert(conn: db.Connection, user_id: str) -> None:
    db.execute(conn, "INSERT INTO users (user_id) VALUES (%s)", [user_id])


def _backend(conn: db.Connection) -> int:
    row = db.fetch_one(conn, "SELECT pg_backend_pid()")
    assert row is not None
    return int(row[0])


def _ended(sql: Sql, *backends: int) -> None:
    """Ends these sessions and comes back when the server has closed them."""
    sql("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) pid", list(backends))


def test_all_of_a_transaction_is_kept_or_nothing(database: db.Database, sql: Sql) -> None:
    kept, lost = str(uuid.uuid4()), str(uuid.uuid4())
    with database.transaction(None) as conn:
        _insert(conn, kept)
    for fault in (ValueError, KeyboardInterrupt):
        with pytest.raises(fault), database.transaction(None) as conn:
            _insert(conn, lost)
            raise fault
    assert sql("SELECT user_id FROM users WHERE user_id = ANY (%s::uuid[])", [kept, lost]) == [(kept,)]


def test_role_and_tenant_end_with_the_transaction(database: db.Database) -> None:
    business_id = str(uuid.uuid4())
    with database.transaction(business_id) as conn:
        assert db.fetch_one(conn, "SELECT current_user, app_business()") == ("icmp_app", business_id)
    reused = database._pool.checkout(1)
    assert reused is conn
    assert db.fetch_one(reused, "SELECT current_user, app_business()") == ("postgres", None)
    database._pool.checkin(reused, broken=True)


def test_what_is_refused_by_the_database_leaves_the_connection_usable(database: db.Database) -> None:
    user_id = str(uuid.uuid4())
    with pytest.raises(psycopg2.errors.UniqueViolation), database.transaction(None) as conn:
        _insert(conn, user_id)
        _insert(conn, user_id)
    with database.transaction(None) as conn:
        _insert(conn, user_id)


def test_a_reference_to_what_is_gone_is_a_conflict(database: db.Database) -> None:
    business_id = str(uuid.uuid4())
    with pytest.raises(db.Conflict), database.transaction(business_id) as conn:
        db.execute(
            conn,
            "INSERT INTO events (business_id, event_id, event_type, event_timestamp) VALUES (%s, %s, 'x', now())",
            [business_id, str(uuid.uuid4())],
        )


def test_connections_that_the_server_closed_are_never_handed_out(database_url: str, sql: Sql) -> None:
    database = db.Database(database_url, pool_size=3)
    for _ in range(2):
        with ExitStack() as stack:
            backends = [_backend(stack.enter_context(database.transaction(None))) for _ in range(3)]
        _ended(sql, *backends)
    with ExitStack() as stack:
        fresh = {_backend(stack.enter_context(database.transaction(None))) for _ in range(3)}
    assert len(fresh) == 3
    assert not fresh & set(backends)
    database.close()


def test_a_connection_lost_in_a_transaction_is_unavailable_and_replaced(database: db.Database, sql: Sql) -> None:
    with pytest.raises(db.DatabaseUnavailable), database.transaction(None) as conn:
        _ended(sql, _backend(conn))
        _insert(conn, str(uuid.uuid4()))
    with database.transaction(None) as conn:
        assert _backend(conn)


def test_no_transaction_ever_sees_another_ones_tenant(
    database_url: str, sql: Sql, alice: Client, charlie: Client
) -> None:
    """Many threads on few connections, with exceptions and broken connections among them."""
    crowded = db.Database(database_url, pool_size=4, checkout_seconds=30)
    owners = [alice.business_id, charlie.business_id, None]
    wrong: list[object] = []
    ends = time.monotonic() + 2

    def work(seed: int) -> int:
        dice, done = random.Random(seed), 0
        while time.monotonic() < ends:
            own = dice.choice(owners)
            try:
                with crowded.transaction(own) as conn:
                    seen = [str(row[0]) for row in db.fetch_all(conn, "SELECT business_id FROM businesses")]
                    if seen != [own] * (own is not None):
                        wrong.append((own, seen))
                    if dice.random() < 0.02:
                        _ended(sql_of_its_own, _backend(conn))
                    if dice.random() < 0.2:
                        raise LookupError
                    done += 1
            except (LookupError, db.DatabaseUnavailable):
                continue
        return done

    lock = threading.Lock()

    def sql_of_its_own(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with lock:
            return sql(statement, *values)

    with ThreadPoolExecutor(24) as threads:
        assert sum(threads.map(work, range(24))) > 24
    assert wrong == []
    assert len(crowded._pool._slots) == 4
    assert not crowded._pool._waiters
    crowded.close()


def test_those_who_wait_are_served_in_order(database: db.Database) -> None:
    served: list[int] = []

    def wait(number: int) -> None:
        with database.transaction(None):
            served.append(number)

    threads = [threading.Thread(target=wait, args=[number]) for number in range(6)]
    with database.transaction(None):
        for count, thread in enumerate(threads, start=1):
            thread.start()
            while len(database._pool._waiters) < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert served == list(range(6))


def test_a_pool_without_a_free_connection_is_unavailable_and_recovers(database_url: str) -> None:
    hasty = db.Database(database_url, pool_size=1, checkout_seconds=0.02)
    with (
        hasty.transaction(None),
        pytest.raises(db.DatabaseUnavailable, match="no free connection"),
        hasty.transaction(None),
    ):
        raise AssertionError("there is only one connection")
    with hasty.transaction(None) as conn:
        assert _backend(conn)
    hasty.close()


def test_a_database_that_is_not_there_is_unavailable(database_url: str) -> None:
    for url in ("postgresql://127.0.0.1:1/icmp", database_url.replace("/icmp", "/no_such")):
        nowhere = db.Database(url, pool_size=1)
        for _ in range(2):  # the place in the pool is given back
            with pytest.raises(db.DatabaseUnavailable), nowhere.transaction(None):
                raise AssertionError("connected to nothing")


def test_a_login_without_the_apps_role_is_unavailable(database_url: str, sql: Sql) -> None:
    login = f"stranger_{uuid.uuid4().hex}"
    sql(f"CREATE ROLE {login} LOGIN")
    stranger = db.Database(database_url.replace("postgres@", f"{login}@"), pool_size=1)
    with pytest.raises(db.DatabaseUnavailable, match="icmp_app"), stranger.transaction(None):
        raise AssertionError("became icmp_app")
    stranger.close()


def test_times_do_not_depend_on_the_servers_zone(database_url: str) -> None:
    elsewhere = db.Database(database_url + "&options=-c%20TimeZone%3DAmerica/New_York", pool_size=1)
    with elsewhere.transaction(None) as conn:
        [(first,)] = db.fetch_all(conn, "SELECT '0001-01-01T00:00:00Z'::timestamptz")
    assert first.isoformat() == "0001-01-01T00:00:00+00:00"
    elsewhere.close()


@pytest.mark.parametrize("closes_first", [False, True])
def test_a_forked_child_never_uses_its_parents_connection(database: db.Database, sql: Sql, closes_first: bool) -> None:
    with database.transaction(None) as conn:
        ours = _backend(conn)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if closes_first:
                database.close()
            with database.transaction(None) as conn:
                os.write(writer, str(_backend(conn)).encode())
            database.close()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        theirs = int(told.read())
    os.waitpid(child, 0)
    assert theirs != ours
    with database.transaction(None) as conn:
        assert _backend(conn) == ours


def test_a_transaction_of_one_moment_sees_nothing_that_comes_later(database: db.Database, sql: Sql) -> None:
    written = (
        "INSERT INTO global_templates (template_id, kind, version, text, input_variables) VALUES (%s, %s, 1, '', '[]')"
    )
    for of_one_moment, seen in ((True, [(0,)]), (False, [(1,)])):
        name = f"moment.{uuid.uuid4()}"
        with database.transaction(None, of_one_moment=of_one_moment) as conn:
            sql(written, name, "response_generation")
            assert db.fetch_all(conn, "SELECT count(*) FROM global_templates WHERE template_id = %s", [name]) == seen
        sql("DELETE FROM global_templates WHERE template_id = %s", name)


def test_one_statement_is_a_transaction_of_its_own(database: db.Database, sql: Sql) -> None:
    user_id, business_id = str(uuid.uuid4()), str(uuid.uuid4())
    assert database.once(None, "INSERT INTO users (user_id) VALUES (%s)", [user_id]) == []
    assert sql("SELECT count(*) FROM users WHERE user_id = %s", user_id) == [(1,)]
    assert database.once(business_id, "SELECT current_user, app_business()::text") == [("icmp_app", business_id)]
    assert database.once(None, "SELECT current_user, app_business()::text") == [("icmp_app", None)]
    with pytest.raises(psycopg2.errors.UniqueViolation):
        database.once(None, "INSERT INTO users (user_id) VALUES (%s)", [user_id])
    # Neither role nor tenant stays with the connection, nor does a fault.
    with database.transaction(None) as conn:
        assert db.fetch_one(conn, "SELECT current_user, app_business()") == ("icmp_app", None)


def test_a_fault_that_was_caught_is_no_commit(database: db.Database, sql: Sql) -> None:
    user_id = str(uuid.uuid4())
    with pytest.raises(db.DatabaseUnavailable), database.transaction(None) as conn:
        _insert(conn, user_id)
        with pytest.raises(psycopg2.errors.UniqueViolation):
            _insert(conn, user_id)
    assert sql("SELECT count(*) FROM users WHERE user_id = %s", user_id) == [(0,)]


def test_an_answer_that_breaks_off_is_an_outage_and_no_fault_of_ours(database: db.Database) -> None:
    with pytest.raises(db.DatabaseUnavailable), database.transaction(None):
        raise psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq")
    with pytest.raises(psycopg2.errors.DivisionByZero), database.transaction(None) as conn:
        db.execute(conn, "SELECT 1 / 0")
