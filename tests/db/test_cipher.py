"""Encryption of columns: values stay where they were written, wrong keys are refused."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import Flask

import app as application
import db
from api import metrics
from api.settings import Settings
from db import keys
from db.cipher import COMPRESSED_BYTES, Cipher, Keyring, Undecryptable, bound
from json_text import encoded
from tests.api import shop
from tests.conftest import MASTER_KEY, Client, onboard

Sql = Callable[..., list[tuple[Any, ...]]]
OURS, THEIRS, KEY_ID = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture
def cipher() -> Cipher:
    return Cipher(OURS, {KEY_ID: AESGCM(bytes(32))}, KEY_ID)


def _app(settings: Settings, *encryption_keys: tuple[str, bytes]) -> Flask:
    app = application.create_app(replace(settings, encryption_keys=encryption_keys))
    app.config["CHECK_REPLIES"] = True
    return app


def test_a_value_comes_back_as_it_was(cipher: Cipher) -> None:
    for value in ("", "naïve 🦜", {"b": [1, 2.5, None], "a": True}, None, 10**30):
        sealed = cipher.encrypt("messages", "message_content", "row", value)
        assert cipher.decrypt("messages", "message_content", "row", memoryview(sealed)) == value
    one, other = (cipher.encrypt("messages", "message_content", "row", "same") for _ in range(2))
    assert one != other


def test_a_long_value_is_stored_shorter_and_comes_back_as_it_was(cipher: Cipher) -> None:
    prompt = [{"role": "user", "content": f"Where is order {number}, please? 🦜"} for number in range(300)]
    sealed = cipher.encrypt("turn_steps", "content", "row", {"prompt": prompt}, may_be_long=True)
    assert len(sealed) < len(json.dumps(prompt)) / 2 < len(cipher.encrypt("a", "b", "c", prompt))
    assert cipher.decrypt("turn_steps", "content", "row", sealed) == {"prompt": prompt}
    plainly = replace(cipher, compresses=False).encrypt("a", "b", "c", prompt, may_be_long=True)
    assert (plainly[:1], sealed[:1]) == (b"\x01", b"\x02")
    for length in (COMPRESSED_BYTES - 3, COMPRESSED_BYTES - 2, COMPRESSED_BYTES + 1):
        text = os.urandom(length).hex()[:length]
        assert cipher.decrypt("a", "b", "c", cipher.encrypt("a", "b", "c", text, may_be_long=True)) == text


@pytest.mark.parametrize("length", [COMPRESSED_BYTES, 4 * COMPRESSED_BYTES, 2**20])
def test_what_hardly_repeats_is_not_lengthened(cipher: Cipher, length: int) -> None:
    digits, anything = os.urandom(length // 2).hex(), os.urandom(length).decode("latin-1")
    sizes = [len(cipher.encrypt("a", "b", "c", text, may_be_long=True)) for text in (digits, anything)]
    assert sizes[0] < length * 0.75
    assert sizes[1] < len(encoded(anything)) + 200


def test_a_value_cannot_be_read_in_another_form(cipher: Cipher) -> None:
    for text in ("short", "long" * COMPRESSED_BYTES):
        sealed = cipher.encrypt("a", "b", "c", text, may_be_long=True)
        for form in {b"\x00", b"\x01", b"\x02", b"\x03"} - {sealed[:1]}:
            with pytest.raises(Undecryptable):
                cipher.decrypt("a", "b", "c", form + sealed[1:])


@pytest.mark.parametrize("text", ["", '"', "\\", 'a "quoted" word', "line\nbreak", "\u2028 é 🦜", '"\\"', "\x7f\x00"])
def test_texts_come_back_letter_by_letter(cipher: Cipher, text: str) -> None:
    assert cipher.decrypt("a", "b", "c", cipher.encrypt("a", "b", "c", text)) == text


@pytest.mark.parametrize(
    "place",
    [
        ("messages", "message_content", "other row"),
        ("messages", "metadata", "row"),
        ("turns", "message_content", "row"),
    ],
)
def test_a_value_moved_elsewhere_cannot_be_read(cipher: Cipher, place: tuple[str, str, str]) -> None:
    sealed = cipher.encrypt("messages", "message_content", "row", "secret")
    with pytest.raises(Undecryptable):
        cipher.decrypt(*place, sealed)


def test_a_value_moved_to_another_tenant_cannot_be_read_even_with_the_same_key(cipher: Cipher) -> None:
    sealed = cipher.encrypt("messages", "message_content", "row", "secret")
    with pytest.raises(Undecryptable):
        replace(cipher, business_id=THEIRS).decrypt("messages", "message_content", "row", sealed)
    with pytest.raises(Undecryptable, match="no known data key"):
        Cipher(OURS, {THEIRS: AESGCM(bytes(32))}, THEIRS).decrypt("messages", "message_content", "row", sealed)


def test_a_value_altered_in_any_byte_cannot_be_read(cipher: Cipher) -> None:
    sealed = cipher.encrypt("messages", "message_content", "row", "secret")
    altered = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for broken in (*altered, b"", sealed[:10], sealed[:20], sealed[:-1]):
        with pytest.raises(Undecryptable):
            cipher.decrypt("messages", "message_content", "row", broken)


def test_parts_of_the_associated_data_cannot_be_shifted() -> None:
    assert bound("ab", "c") != bound("a", "bc") != bound("a", "b", "c")


def test_a_row_swapped_in_the_database_is_a_fault_and_a_security_event_and_never_shown(
    alice: Client, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    shop.furnish(alice, shop.SMALL_TALK)
    answered = shop.write(alice, "My secret")
    message, reply = answered.body["message_id"], answered.body["reply_id"]
    sql(
        "UPDATE messages SET message_content = (SELECT message_content FROM messages WHERE message_id = %s)"
        " WHERE message_id = %s",
        message,
        reply,
    )
    counted = metrics.SECURITY_EVENTS.labels(kind="decrypt_failed")
    before = counted._value.get()
    shown = alice.get(f"/api/v1/messages/{reply}")
    assert (shown.status, shown.error_code) == (500, "SERVER_ERROR")
    assert "My secret" not in str(shown.body)
    assert counted._value.get() == before + 1
    [event] = [record for record in caplog.records if record.name == "icmp.security"]
    assert (event.levelname, vars(event)["kind"]) == ("ERROR", "decrypt_failed")
    assert "My secret" not in caplog.text
    assert alice.get(f"/api/v1/messages/{message}").body["message_content"] == "My secret"


def test_a_wrong_key_is_refused_in_words(settings: Settings, port: int, database_url: str, alice: Client) -> None:
    database = db.Database(database_url, pool_size=1)
    [(key_id, _)] = settings.encryption_keys
    for wrong, words in (((key_id, bytes(32)), "wrong key"), (("k9", bytes(32)), "ENCRYPTION_KEY holds no key named")):
        store = keys.KeyStore(Keyring.of((wrong,)))
        with pytest.raises(Undecryptable, match=words), database.transaction(None) as conn:
            store.platform(conn)
        with pytest.raises(Undecryptable, match=words), database.transaction(alice.business_id) as conn:
            store.cipher(conn, alice.business_id)
        with _app(settings, wrong).test_client() as browser:
            ready = browser.get("/readyz")
        assert (ready.status_code, ready.get_json()["checks"]["encryption_key"]) == (503, "does not fit the data")
    database.close()


def test_a_new_key_in_front_of_the_old_one_reads_the_old_and_wraps_the_new(
    settings: Settings, serve: Callable[[Flask], int], alice: Client, sql: Sql
) -> None:
    shop.furnish(alice, shop.SMALL_TALK)
    answered = shop.write(alice, "Written under the old key")
    turned = Client(serve(_app(settings, ("k2", os.urandom(32)), *settings.encryption_keys)), MASTER_KEY)
    assert turned.get("/readyz").status == 200
    path = f"/api/v1/messages/{answered.body['message_id']}"
    read = Client(turned.port, alice.key).get(path)
    assert (read.status, read.body["message_content"]) == (200, "Written under the old key")
    newcomer = onboard(turned, "Under the new key")
    wrapping = "SELECT wrapping_key_id FROM data_keys WHERE business_id = %s"
    assert (sql(wrapping, alice.business_id), sql(wrapping, newcomer.business_id)) == ([("k1",)], [("k2",)])
    assert turned.delete(f"/api/v1/businesses/{newcomer.business_id}").status == 204
