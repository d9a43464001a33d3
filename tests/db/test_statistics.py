"""Young tables are analyzed when they have grown; what a session has planned before is planned anew."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

import db
from api.settings import Settings
from db import statistics
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

BUSINESS, USER, CONVERSATION, TURN = (str(uuid.UUID(int=number)) for number in range(1, 5))
SETUP = f"""
    INSERT INTO users (user_id) VALUES ('{USER}');
    INSERT INTO businesses (business_id, owner_id, business_name) VALUES ('{BUSINESS}', '{USER}', 'one');
    INSERT INTO memberships (business_id, user_id, role) VALUES ('{BUSINESS}', '{USER}', 'owner');
    INSERT INTO conversations (business_id, conversation_id, user_id, session_id)
    VALUES ('{BUSINESS}', '{CONVERSATION}', '{USER}', 's');
    INSERT INTO turns (business_id, turn_id, conversation_id, number, epoch)
    VALUES ('{BUSINESS}', '{TURN}', '{CONVERSATION}', 0, 1)
"""


@pytest.fixture(scope="module")
def house(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        made.sql(SETUP)
        yield made


@pytest.fixture
def database(house: OwnDatabase) -> Iterator[db.Database]:
    made = db.Database(house.settings.database_url, pool_size=1)
    yield made
    made.close()


def test_a_table_is_analyzed_when_it_has_doubled(house: OwnDatabase, database: db.Database) -> None:
    _add_turns(house, first=1, count=59)
    assert statistics.refresh(database) >= 1
    assert _known(house) == 60
    assert statistics.refresh(database) == 0
    _add_turns(house, first=60, count=60)
    assert statistics.refresh(database) == 0
    _add_turns(house, first=120, count=1)
    assert statistics.refresh(database) == 1
    assert _known(house) == 121


def test_a_plan_kept_from_an_empty_table_gives_way_to_the_primary_key(
    house: OwnDatabase, database: db.Database
) -> None:
    _rows_read(database)
    _add_turns(house, first=1000, count=2000)
    assert statistics.refresh(database) >= 1
    assert _rows_read(database) <= 2


def test_who_finds_another_one_at_it_does_nothing(house: OwnDatabase, database: db.Database) -> None:
    other = db.Database(house.settings.database_url, pool_size=1)
    _add_turns(house, first=10_000, count=5000)
    with other.transaction(None) as connection:
        db.execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended('icmp.analyze_young_table', 0))")
        assert statistics.refresh(database) == 0
    other.close()
    assert statistics.refresh(database) >= 1


def _add_turns(house: OwnDatabase, first: int, count: int) -> None:
    """Rows, and the server's count of them."""
    changes = "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = 'turns'"
    before = house.sql(changes)[0][0]
    house.sql(
        "INSERT INTO turns (business_id, turn_id, conversation_id, number)"
        " SELECT %s, gen_random_uuid(), %s, n FROM generate_series(%s, %s) n",
        *(BUSINESS, CONVERSATION, first, first + count - 1),
    )
    deadline = time.monotonic() + 10
    while house.sql(changes)[0][0] < before + count:
        assert time.monotonic() < deadline, "the server counts no changes"
        time.sleep(0.02)


def _known(house: OwnDatabase) -> float:
    return float(house.sql("SELECT reltuples FROM pg_class WHERE relname = 'turns'")[0][0])


def _rows_read(database: db.Database) -> int:
    """How many turns the last of ten look-ups of one turn fetched, in a session that keeps its plans."""
    read = "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'turns'"
    with database.transaction(BUSINESS) as connection:
        for _ in range(10):
            before = db.fetch_one(connection, read)
            db.execute(connection, "SELECT keep_turn_steps(%s, %s, 1, 0, '[]', '{}')", [BUSINESS, TURN])
            after = db.fetch_one(connection, read)
    assert before is not None and after is not None
    return int(after[0] - before[0])
