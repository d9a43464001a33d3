"""Deleting a business destroys its keys first: what somebody copied before is unreadable for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import db
from api.settings import Settings
from db.cipher import Cipher, Undecryptable
from tests.api import shop
from tests.conftest import Client, onboard
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

ROWS = "SELECT count(*) FROM {} WHERE business_id = %s"


@pytest.fixture
def house(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        yield made


def _shop(master: Client) -> tuple[Client, str]:
    """A business and the id of a message in it."""
    client = onboard(master, "Shop")
    shop.furnish(client, shop.SMALL_TALK)
    return client, shop.write(client, "A secret of the shop").body["message_id"]


def _tables(house: OwnDatabase) -> list[str]:
    statement = "SELECT table_name FROM information_schema.columns WHERE column_name = 'business_id'"
    return sorted(name for (name,) in house.sql(f"{statement} AND table_schema = 'public'"))


def test_a_copy_of_the_rows_is_unreadable_once_the_business_is_gone(house: OwnDatabase) -> None:
    master = house.master()
    client, message_id = _shop(master)
    own = client.business_id
    house.sql("CREATE TABLE stolen AS SELECT message_content FROM messages WHERE message_id = %s", message_id)
    assert master.delete(f"/api/v1/businesses/{own}").status == 204
    assert [table for table in _tables(house) if house.sql(ROWS.format(table), own) != [(0,)]] == ["audit_log"]

    # Whoever has every wrapping key and the thief's rows, in a business of the same id:
    app = house.app()
    store = app.extensions["icmp"].key_store
    [(stolen,)] = house.sql("SELECT message_content FROM stolen")
    database = db.Database(house.settings.database_url, pool_size=1)
    with pytest.raises(db.NotFound), database.transaction(own) as conn:
        store.cipher(conn, own)
    house.sql(
        "INSERT INTO businesses (business_id, owner_id, business_name) SELECT %s, user_id, 'Again' FROM users LIMIT 1",
        own,
    )
    with database.transaction(own) as conn:
        store.create(conn, own)
        again: Cipher = store.cipher(conn, own)
        with pytest.raises(Undecryptable):
            again.decrypt("messages", "message_content", message_id, stolen)
    database.close()


def test_keys_and_logins_end_even_when_the_rows_cannot_go(house: OwnDatabase) -> None:
    master = house.master()
    client, message_id = _shop(master)
    house.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$")
    house.sql("CREATE TRIGGER refuse BEFORE DELETE ON businesses FOR EACH ROW EXECUTE FUNCTION refuse()")
    path = f"/api/v1/businesses/{client.business_id}"
    assert master.delete(path).status == 500
    assert client.get(path).status == 401
    for table in ("data_keys", "api_keys", "sessions", "user_sessions"):
        assert house.sql(ROWS.format(table), client.business_id) == [(0,)]
    fresh = house.get(f"/api/v1/messages/{message_id}?business_id={client.business_id}", master.key)
    assert fresh.status == 404
    # And then it can be finished.
    house.sql("DROP TRIGGER refuse ON businesses")
    assert [master.delete(path).status for _ in range(2)] == [204, 404]


def test_a_large_business_has_minutes_to_go(house: OwnDatabase) -> None:
    house.sql("CREATE TABLE seen (statement_timeout text)")
    house.sql("GRANT INSERT ON seen TO PUBLIC")
    house.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.seen VALUES (current_setting('statement_timeout')); RETURN OLD; END $$"
    )
    house.sql("CREATE TRIGGER note BEFORE DELETE ON businesses FOR EACH ROW EXECUTE FUNCTION note()")
    master = house.master()
    client, _ = _shop(master)
    assert master.delete(f"/api/v1/businesses/{client.business_id}").status == 204
    assert house.sql("SELECT statement_timeout FROM seen") == [("15min",)]
