"""A business that is being deleted, for minutes when it is large, keeps nobody else's turns from being kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

import app as application
import db
from api import acceptance, replies
from api.acceptance import Accepted
from api.keeper import TAKEN_AT_ONCE, Keeper
from api.parts import Parts
from api.settings import Settings
from db import cipher, turn_leases
from tests.api import gunicorn_server, shop
from tests.conftest import Client, onboard
from tests.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]
LEASE_SECONDS = 0.5


@pytest.fixture
def lost(settings: Settings) -> Callable[..., Accepted]:
    """Accepts a message, of a new customer unless told, in the manner of a worker that is killed right after it."""
    parts: Parts = application.create_app(replace(settings, turn_lease_s=LEASE_SECONDS)).extensions["icmp"]

    def accept(client: Client, user_id: str | None = None) -> Accepted:
        body = {"user_id": user_id or str(uuid.uuid4()), "message": "Hello"}
        return acceptance.accept(parts, client.business_id, body, None)

    return accept


@pytest.fixture
def shops(master: Client) -> tuple[Client, Client]:
    """A business that will be deleted, and another one."""
    leaving, staying = onboard(master, "Leaving"), onboard(master, "Staying")
    for each in (leaving, staying):
        shop.furnish(each, shop.SMALL_TALK)
    return leaving, staying


@contextmanager
def _being_deleted(database_url: str, client: Client) -> Iterator[None]:
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM businesses WHERE business_id = %s", [client.business_id])
        yield
    finally:
        connection.rollback()
        connection.close()


def test_turns_of_lost_workers_are_taken_over_beside_those_of_a_business_that_is_being_deleted(
    tmp_path_factory: pytest.TempPathFactory,
    database_url: str,
    sql: Sql,
    shops: tuple[Client, Client],
    lost: Callable[[Client], Accepted],
) -> None:
    leaving, staying = shops
    for _ in range(2 * TAKEN_AT_ONCE):
        lost(leaving)
    with _being_deleted(database_url, leaving):
        turn = lost(staying)
        with gunicorn_server.running(tmp_path_factory.mktemp("served"), database_url):
            until(lambda: sql("SELECT state FROM turns WHERE turn_id = %s", turn.turn_id) == [("done",)])


def test_a_message_that_waited_its_turn_is_left_to_its_own_request_at_first(
    database_url: str, sql: Sql, shops: tuple[Client, Client], lost: Callable[..., Accepted]
) -> None:
    _, staying = shops
    user_id, of_turn = str(uuid.uuid4()), " WHERE turn_id = %s"
    first, second = lost(staying, user_id), lost(staying, user_id)
    assert (first.claim is None, second.claim is None) == (False, True)
    sql("UPDATE turns SET created_at = created_at - interval '1 minute'" + of_turn, second.turn_id)
    sql("UPDATE turns SET state = 'done', lease_until = NULL, finished_at = clock_timestamp()" + of_turn, first.turn_id)
    database = db.Database(database_url)
    waiting = (staying.business_id, second.turn_id)
    assert waiting not in turn_leases.abandoned(database, 100)
    sql("UPDATE turns SET finished_at = finished_at - interval '6 seconds'" + of_turn, first.turn_id)
    assert waiting in turn_leases.abandoned(database, 100)
    database.close()


def test_leases_are_renewed_beside_those_of_a_business_that_is_being_deleted(
    settings: Settings,
    database_url: str,
    sql: Sql,
    shops: tuple[Client, Client],
    lost: Callable[[Client], Accepted],
) -> None:
    parts: Parts = application.create_app(settings).extensions["icmp"]
    keeper = Keeper(parts.database, lease_s=60.0, longest_s=60.0)
    claims = [accepted.claim for accepted in map(lost, shops)]
    sql("UPDATE turns SET lease_until = now() + interval '15 seconds' WHERE lease_until > now() - interval '5 seconds'")
    assert claims[0] is not None
    assert claims[1] is not None
    with (
        _being_deleted(database_url, shops[0]),
        keeper.holding(claims[0]),
        keeper.holding(claims[1]),
        suppress(db.DatabaseUnavailable),
    ):
        keeper._renew(time.monotonic())
    renewed = "SELECT lease_until > now() + interval '30 seconds' FROM turns WHERE turn_id = %s"
    assert sql(renewed, claims[1].turn_id) == [(True,)]


def test_a_time_without_keys_is_no_fault_of_the_turns_that_were_taken_over_in_it(
    settings: Settings,
    shops: tuple[Client, Client],
    lost: Callable[[Client], Accepted],
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another process, which has not opened the business's keys yet.
    parts: Parts = application.create_app(settings).extensions["icmp"]
    turn = lost(shops[0])

    def taken_over() -> None:
        sql("UPDATE turns SET lease_until = now() WHERE turn_id = %s", turn.turn_id)
        replies.resume(parts, turn.business_id, turn.turn_id or "")

    def refuse(*_: Any) -> bytes:
        raise db.KeysUnavailable("KMS is away")

    with monkeypatch.context() as away:
        away.setattr(cipher.LocalKey, "unwrap", refuse)
        for _ in range(2 * turn_leases.MAX_ATTEMPTS):
            taken_over()
    taken_over()
    assert sql("SELECT state, error_code FROM turns WHERE turn_id = %s", turn.turn_id) == [("done", None)]
