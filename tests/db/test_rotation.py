"""Wrapping keys and data keys change while the app serves; afterwards the old key may go, and nothing is lost."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import db
from api.settings import Settings
from db import keys, rotation
from db.cipher import Keyring
from tests.api import shop
from tests.conftest import MASTER_KEY, Client, onboard
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

NEW = ("k2", os.urandom(32))
SECRETS = [f"Secret {number}" for number in range(5)]
DONE = "platform secrets wrapped anew: {}\ndata keys wrapped anew: {}\n"


@pytest.fixture
def house(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        yield made


def _shops(house: OwnDatabase, *texts: str) -> list[tuple[Client, str]]:
    """A business with one message for each text: its client and the message's path."""
    clients, master = [], house.master()
    for text in texts:
        client = onboard(master, "Shop")
        shop.furnish(client, shop.SMALL_TALK)
        clients.append((client, f"/api/v1/messages/{shop.write(client, text).body['message_id']}"))
    return clients


def _reads(house: OwnDatabase, client: Client, path: str, *wrapping_keys: tuple[str, bytes]) -> tuple[int, str | None]:
    """What an app with these keys and an empty memory makes of a stored message."""
    answer = house.get(path, client.key, encryption_keys=wrapping_keys)
    return answer.status, answer.body.get("message_content")


def _wrapped_by(house: OwnDatabase) -> set[str]:
    union = "SELECT wrapping_key_id FROM data_keys UNION SELECT wrapping_key_id FROM platform_secrets"
    return {name for (name,) in house.sql(union)}


def test_nothing_is_rotated_under_a_wrong_key(house: OwnDatabase) -> None:
    [(client, path)] = _shops(house, SECRETS[0])
    [(name, _)] = house.settings.encryption_keys
    code, words = house.run("rotate-keys", "--new-data-keys", encryption_keys=((name, os.urandom(32)),))
    assert (code, words.startswith("Error: ENCRYPTION_KEY does not fit the data (")) == (1, True), words
    assert house.sql("SELECT count(*) FROM data_keys") == [(1,)]
    assert _reads(house, client, path, *house.settings.encryption_keys) == (200, SECRETS[0])


def test_after_rotation_the_old_key_may_go_and_everything_is_readable(house: OwnDatabase) -> None:
    old = house.settings.encryption_keys
    shops = _shops(house, *SECRETS[:3])
    assert house.run("rotate-keys", encryption_keys=(NEW, *old)) == (0, DONE.format(2, 3))
    assert _wrapped_by(house) == {"k2"}
    for number, (client, path) in enumerate(shops):
        assert _reads(house, client, path, NEW) == (200, SECRETS[number])
    assert house.get("/readyz", encryption_keys=(NEW,)).status == 200
    assert house.run("rotate-keys", encryption_keys=(NEW,)) == (0, DONE.format(0, 0))
    assert house.get("/readyz", encryption_keys=old).body["checks"]["encryption_key"] == "does not fit the data"


@pytest.mark.parametrize("left", ["platform_secrets", "data_keys"])
def test_a_key_that_was_not_wrapped_anew_makes_the_app_unready_and_is_named(
    left: str, house: OwnDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    _shops(house, "Hello")
    assert house.run("rotate-keys", encryption_keys=(NEW, *house.settings.encryption_keys))[0] == 0
    house.sql(f"UPDATE {left} SET wrapping_key_id = 'k1'")
    ready = house.get("/readyz", encryption_keys=(NEW,))
    assert (ready.status, ready.body["checks"]["encryption_key"]) == (503, "does not fit the data")
    line = "the encryption key does not fit the data: ENCRYPTION_KEY holds no key named 'k1'"
    assert line in capsys.readouterr().out


def test_a_key_that_cannot_be_opened_is_told_and_the_others_are_done(house: OwnDatabase) -> None:
    (lost, _), (kept, path) = _shops(house, "Lost", "Kept")
    house.sql("UPDATE data_keys SET wrapping_key_id = 'gone' WHERE business_id = %s", lost.business_id)
    code, words = house.run("rotate-keys", encryption_keys=(NEW, *house.settings.encryption_keys))
    told = f"Error: 1 cannot be opened ({lost.business_id}): ENCRYPTION_KEY holds no key named 'gone'\n"
    assert (code, words) == (1, DONE.format(2, 1) + told)
    assert _reads(house, kept, path, NEW) == (200, "Kept")


def test_two_rotations_at_once_share_the_work_and_lose_nothing(
    house: OwnDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "BATCH", 2)
    shops = _shops(house, *SECRETS)
    ring = Keyring.of((NEW, *house.settings.encryption_keys))
    runs = [rotation.Rotation(db.Database(house.settings.database_url, pool_size=1), ring) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rotation.Rotation.rewrap_all, runs))
    assert sum(run.counts["data_keys"] for run in runs) == 5
    assert sum(run.counts["secrets"] for run in runs) == 2
    for number, (client, path) in enumerate(shops):
        assert _reads(house, client, path, NEW) == (200, SECRETS[number])
    for run in runs:
        run.database.close()


def test_a_key_deleted_during_rotation_does_not_come_back(house: OwnDatabase) -> None:
    [(client, _)] = _shops(house, "Hello")
    database = db.Database(house.settings.database_url, pool_size=1)

    class Slow(Keyring):
        def wrap(self, key: bytes, purpose: str) -> bytes:
            house.sql("DELETE FROM data_keys WHERE business_id::text = %s", purpose)
            return super().wrap(key, purpose)

    ring = Keyring.of((NEW, *house.settings.encryption_keys))
    run = rotation.Rotation(database, Slow(ring.keys, ring.active_id))
    run.rewrap_all()
    assert (run.counts["secrets"], run.counts["data_keys"]) == (2, 0)
    assert house.sql("SELECT count(*) FROM data_keys WHERE business_id = %s", client.business_id) == [(0,)]
    database.close()


def test_rotation_disturbs_no_request(house: OwnDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    old = house.settings.encryption_keys
    # Every request reads its keys anew, whatever state it finds them in.
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
    shops = _shops(house, "Hello", "Hello", "Hello")
    port = house.serve(house.app(encryption_keys=(NEW, *old)))
    stop, statuses = threading.Event(), []

    def work(client: Client, path: str) -> None:
        busy = Client(port, client.key)
        while not stop.is_set():
            statuses.append(busy.get(path).status)
            statuses.append(shop.write(busy, "Hello again").status)

    turns = 0
    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, *each) for each in shops]
        try:
            while turns < 4 or len(statuses) < 30:
                both = (NEW, *old) if turns % 2 == 0 else (*old, NEW)
                code, words = house.run("rotate-keys", "--new-data-keys", encryption_keys=both)
                assert (code, words.splitlines()[0]) == (0, "platform secrets wrapped anew: 2")
                turns += 1
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    assert set(statuses) == {200}
    assert house.sql("SELECT count(*) FROM data_keys") == [(3 * (1 + turns),)]


def test_new_data_keys_are_used_once_every_process_must_know_them(house: OwnDatabase) -> None:
    [(client, path)] = _shops(house, "Before")
    code, words = house.run("rotate-keys", "--new-data-keys")
    assert (code, words.splitlines()[-1]) == (0, "data keys made: 1, in use in 360 seconds")
    [(old, new)] = house.sql(
        "SELECT min(data_key_id::text) FILTER (WHERE is_active),"
        " min(data_key_id::text) FILTER (WHERE NOT is_active) FROM data_keys"
    )
    assert _key_of_next_message(house, client) == old
    # The time has come.
    house.sql("UPDATE data_keys SET used_from = clock_timestamp() WHERE NOT is_active")
    assert _key_of_next_message(house, client) == new
    assert _reads(house, client, path, *house.settings.encryption_keys) == (200, "Before")
    # A process that read the keys before the new one was used goes on reading what others write with it.
    assert rotation.SPREAD_SECONDS > keys.CACHE_SECONDS


def _key_of_next_message(house: OwnDatabase, client: Client) -> str:
    fresh = Client(house.serve(house.app()), client.key)
    message_id = shop.write(fresh, "Now").body["message_id"]
    [(stored,)] = house.sql("SELECT message_content FROM messages WHERE message_id = %s", message_id)
    return str(uuid.UUID(bytes=bytes(stored)[1:17]))


def test_rotation_is_written_down(house: OwnDatabase) -> None:
    _shops(house, "Hello")
    house.run("rotate-keys", encryption_keys=(NEW, *house.settings.encryption_keys))
    listed = house.get("/api/v1/audit?actor=command", MASTER_KEY, encryption_keys=(NEW,)).body
    assert [(entry["action"], entry["business_id"]) for entry in listed] == [("data_keys.rotate", None)]


def test_secrets_that_were_made_in_vain_are_not_remembered(house: OwnDatabase) -> None:
    store, other = (keys.KeyStore(Keyring.of(house.settings.encryption_keys)) for _ in range(2))
    database = db.Database(house.settings.database_url)
    with pytest.raises(db.Conflict), database.transaction(None) as conn:
        store.platform(conn)
        raise db.Conflict("the first transaction of all comes to nothing")
    with database.transaction(None) as conn:
        assert store.platform(conn).pepper == other.platform(conn).pepper
    database.close()
