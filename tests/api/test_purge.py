"""Retention: what is old goes with all it has, what is not stays, and a run that breaks off can be taken up again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from flask import Flask

import db
from db import purge
from tests.api.ledgers import Ledger, Sql
from tests.conftest import Client

PARTS = ("conversations", "turns", "turn_steps", "messages")
YEAR = ("--messages-older-than", "365")


@pytest.fixture
def ledger(sql: Sql, alice: Client, flask_app: Flask) -> Ledger:
    """A new business's, where no other test has left something old."""
    _purge(flask_app, *YEAR)
    return Ledger(sql, alice)


def _purge(app: Flask, *options: str, fails: bool = False) -> dict[str, int]:
    """Runs the command; the rows it says it has deleted."""
    result = app.test_cli_runner().invoke(args=["purge", *options])
    assert (result.exit_code != 0) is fails, result.output
    return {name: int(number) for name, number in re.findall(r"deleted (\w+): (\d+)", result.output)}


def _talk(ledger: Ledger, days: int, turns: int = 3, started_days: int | None = None) -> str:
    """A conversation whose last change is so many days ago."""
    conversation_id = ledger.conversation()
    for number in range(1, turns + 1):
        turn_id = ledger.turn(conversation_id, number, "first")
        ledger.step(turn_id, 0, "2026-01-10T00:00:00Z")
        ledger.step(turn_id, 1, "2026-01-10T00:00:00Z")
        ledger.message(conversation_id, "user", "2026-01-10T00:00:00Z")
    ledger.sql(
        "UPDATE conversations SET start_time = now() - make_interval(days => %s),"
        " last_updated = now() - make_interval(days => %s) WHERE conversation_id = %s",
        started_days or days, days, conversation_id,
    )  # fmt: skip
    return conversation_id


def _left(ledger: Ledger) -> dict[str, int]:
    """The rows of each table that this business still has."""
    business_id = ledger.client.business_id
    counts = {name: ledger.sql(f"SELECT count(*) FROM {name} WHERE business_id = %s", business_id) for name in PARTS}
    return {name: rows[0][0] for name, rows in counts.items()}


def _conversations(ledger: Ledger) -> set[str]:
    rows = ledger.sql("SELECT conversation_id FROM conversations WHERE business_id = %s", ledger.client.business_id)
    return {row[0] for row in rows}


def test_old_conversations_go_with_all_they_have_and_others_stay(ledger: Ledger, flask_app: Flask) -> None:
    for days in (366, 400, 4000):
        _talk(ledger, days)
    kept = {_talk(ledger, 364), _talk(ledger, 1, started_days=4000)}
    before = _left(ledger)
    assert _purge(flask_app, *YEAR) == {"conversations": 3, "turns": 9, "turn_steps": 18, "messages": 9}
    assert _conversations(ledger) == kept
    assert _left(ledger) == {name: number * 2 // 5 for name, number in before.items()}
    assert _purge(flask_app, *YEAR) == {}


def test_every_business_is_visited(ledger: Ledger, charlie: Client, sql: Sql, flask_app: Flask) -> None:
    theirs = Ledger(sql, charlie)
    for each in (ledger, theirs):
        _talk(each, 500)
    assert _purge(flask_app, *YEAR)["conversations"] == 2
    assert (_conversations(ledger), _conversations(theirs)) == (set(), set())


def test_no_transaction_deletes_more_rows_than_it_may(
    ledger: Ledger, flask_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _talk(ledger, 500, turns=20)
    sizes, delete = [], purge.delete_conversations

    def watched(*arguments: Any, **named: Any) -> purge.Batch:
        batch = delete(*arguments, **named)
        sizes.append(sum(batch.deleted.values()))
        return batch

    monkeypatch.setattr(purge, "delete_conversations", watched)
    deleted = _purge(flask_app, *YEAR, "--rows", "7")
    assert deleted == {"conversations": 1, "turns": 20, "turn_steps": 40, "messages": 20}
    assert max(sizes) == 7
    assert sum(sizes) == sum(deleted.values())


def test_a_run_that_breaks_off_keeps_what_it_did_and_the_next_one_ends_it(
    ledger: Ledger, flask_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        _talk(ledger, 500)
    before, delete, batches = _left(ledger), purge.delete_conversations, iter(range(3))

    def breaks_off(*arguments: Any, **named: Any) -> purge.Batch:
        if ledger.client.business_id in arguments and next(batches, None) is None:
            raise db.DatabaseUnavailable("gone")
        return delete(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(purge, "delete_conversations", breaks_off)
        first = _purge(flask_app, *YEAR, "--rows", "5", fails=True)
    assert sum(first.values()) == 15
    assert sum(_left(ledger).values()) == sum(before.values()) - 15
    second = _purge(flask_app, *YEAR, "--rows", "5")
    assert {name: first.get(name, 0) + second.get(name, 0) for name in before} == before


@contextmanager
def _held(database_url: str, conversation_id: str) -> Iterator[None]:
    """Somebody is at work on the conversation."""
    connection = psycopg2.connect(database_url)
    try:
        statement = "SELECT 1 FROM conversations WHERE conversation_id = %s FOR UPDATE"
        connection.cursor().execute(statement, [conversation_id])
        yield
    finally:
        connection.rollback()  # a mere close is noticed later
        connection.close()


def test_a_conversation_that_somebody_is_writing_to_is_left(
    ledger: Ledger, flask_app: Flask, database_url: str
) -> None:
    busy, idle = _talk(ledger, 500), _talk(ledger, 499)
    with _held(database_url, busy):
        assert _purge(flask_app, *YEAR)["conversations"] == 1
    assert _conversations(ledger) == {busy} != {idle}
    assert _purge(flask_app, *YEAR)["conversations"] == 1


def test_events_go_by_when_they_were_received(alice: Client, sql: Sql, flask_app: Flask) -> None:
    for moment, days in (("now()", 400), ("'9999-12-31T00:00:00Z'", 400), ("now() - interval '9 years'", 1)):
        sql(
            "INSERT INTO events (business_id, event_id, event_type, event_timestamp, received_at)"
            f" VALUES (%s, %s, %s, {moment}, now() - make_interval(days => %s))",
            alice.business_id, str(uuid.uuid4()), f"{days} days", days,
        )  # fmt: skip
    assert _purge(flask_app, "--events-older-than", "395", "--rows", "1") == {"events": 2}
    kept = sql("SELECT event_type FROM events WHERE business_id = %s", alice.business_id)
    assert kept == [("1 days",)]


def test_only_ended_sessions_go(alice: Client, anybody: Client, sql: Sql, flask_app: Flask) -> None:
    for _ in range(2):
        assert anybody.post("/api/save-config", {"businessApiKey": alice.key}).status == 200
    sql(
        "UPDATE sessions SET expires_at = now() - interval '1 second' WHERE session_key_id ="
        " (SELECT session_key_id FROM sessions WHERE business_id = %s LIMIT 1)",
        alice.business_id,
    )
    assert _purge(flask_app, "--ended-sessions")["sessions"] >= 1
    assert sql("SELECT count(*) FROM sessions WHERE business_id = %s", alice.business_id) == [(1,)]


def test_nothing_is_deleted_that_was_not_named(ledger: Ledger, flask_app: Flask) -> None:
    _talk(ledger, 5000)
    result = flask_app.test_cli_runner().invoke(args=["purge"])
    assert (result.exit_code, "--messages-older-than" in result.output) == (2, True)
    assert set(_purge(flask_app, "--events-older-than", "1")) <= {"events"}
    assert _left(ledger)["conversations"] == 1
    assert _purge(flask_app, *YEAR)["conversations"] == 1
    for wrong in ("0", "-1", "soon"):
        assert flask_app.test_cli_runner().invoke(args=["purge", "--events-older-than", wrong]).exit_code == 2
