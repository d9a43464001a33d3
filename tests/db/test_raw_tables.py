"""What somebody sees who gets hold of the database alone: no word of a customer, no key, no password."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from api.settings import Settings
from tests.api import people, shop
from tests.conftest import MASTER_KEY, Client, onboard
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

COLUMNS = """
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), a.atttypid::regtype::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
"""
# Each in one place of its own, so that a leak tells where it comes from. Not all of it is ASCII: JSON escapes that.
PLANTED = {
    "message": "Grünspecht",
    "metadata": "Käuzchen",
    "metadata name": "Zaunkönigin",
    "extracted data": "98765432109",
    "reply of staff": "Säbelschnäbler",
    "name": "Wiedehöpfin",
    "email": "tambourine@harbour.example",
    "phone": "+493012345678",
    "profile": "Rohrdömmel",
    "login": "quetzal@harbour.example",
    "secret header": "sesame-of-the-shop",
    "secret header through the set-up": "mustard-of-the-shop",
    "password": people.PASSWORD,
    "master key": MASTER_KEY,
}
# What is not customers' words stays plain, also the data of analytics events: frontends choose it, reports read it.
PLAIN = ("Plainly visible.", "Plain name", "button-of-an-event")


@pytest.fixture
def house(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        yield made


def _play(master: Client) -> list[str]:
    """A shop with a conversation in which each word was planted; the tokens that were given out."""
    owner = {"email": PLANTED["login"], "name": PLANTED["name"], "password": people.PASSWORD}
    client = onboard(master, "Plain name", owner=owner)
    _furnish(client)
    user_id = str(uuid.uuid4())
    contact = {name: PLANTED[name] for name in ("name", "email")} | {"phone_number": PLANTED["phone"]}
    created = client.post("/api/v1/users", contact | {"user_id": user_id, "profile": {"pet": PLANTED["profile"]}})
    assert created.status == 201, created.body
    text = f"{PLANTED['message']} here, where is my order {PLANTED['extracted data']}?"
    metadata = {"pet": PLANTED["metadata"], PLANTED["metadata name"]: 1}
    answered = shop.write(client, text, user_id, metadata=metadata)
    assert answered.body["data"] == {"order_number": PLANTED["extracted data"]}
    path = f"/api/v1/conversations/{answered.body['conversation_id']}/messages"
    assert client.post(path, {"message": f"Dear {PLANTED['reply of staff']}."}).status == 201
    event: dict[str, Any] = {"event_id": str(uuid.uuid4()), "business_id": client.business_id, "event_type": "click"}
    event |= {"event_timestamp": "2026-01-02T03:04:05Z", "event_data": {"name": "button-of-an-event"}}
    assert Client(master.port).post("/api/v1/events", event).status == 201
    return [str(client.key), *_sessions(client)]


def _furnish(client: Client) -> None:
    calls = {"url": "https://api.example/", "headers": {}, "secret_headers": {"X-Token": PLANTED["secret header"]}}
    look_up = {"method": "api_call", "config": calls}
    shop.furnish(client, shop.ORDER_STATUS | {"data_retrieval": look_up, "stage_description": "Plainly visible."})
    document = client.get("/api/v1/config").body
    second = json.loads(json.dumps(document["stages"][0])) | {"stage_name": "second"}
    headers = {"X-Token": PLANTED["secret header through the set-up"]}
    second["data_retrieval"]["config"]["secret_headers"] = headers
    document["stages"].append(second)
    answer = client.call("PUT", "/api/v1/config", document)
    assert answer.status == 200, answer.body


def _sessions(client: Client) -> list[str]:
    """The tokens of a key's cookie and of a login."""
    saved = Client(client.port).post("/api/save-config", {"businessApiKey": client.key})
    login = Client(client.port).post(people.LOGIN, {"email": PLANTED["login"], "password": people.PASSWORD})
    assert (saved.status, login.status) == (200, 200)
    return [saved.headers["Set-Cookie"].partition("=")[2].partition(";")[0], login.body["token"]]


def _raw(house: OwnDatabase) -> bytes:
    """Every value of every column of every table: bytes as they are, all else as text."""
    values = []
    for table, column, kind in house.sql(COLUMNS):
        shown = column if kind == "bytea" else f"convert_to({column}::text, 'UTF8')"
        values += [bytes(value) for (value,) in house.sql(f"SELECT {shown} FROM {table} WHERE {column} IS NOT NULL")]
    return b"\n".join(values).lower()


def _forms(word: str) -> set[bytes]:
    """The word as it may stand in a column: plain, in JSON, in hexadecimal, in base64 at each alignment."""
    plain = word.encode()
    forms = {plain, json.dumps(word)[1:-1].encode(), plain.hex().encode(), plain.decode().encode("utf-16-le")}
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + plain)
        # The characters at both ends also hold bits of the neighbours.
        forms.add(encoded[4 if before else 0 : -4])
    return {form.lower() for form in forms}


def test_raw_tables_hold_no_word_of_a_customer_and_no_secret(house: OwnDatabase) -> None:
    tokens = _play(house.master())
    raw = _raw(house)
    for visible in PLAIN:
        assert visible.lower().encode() in raw, visible
    filled = {table for table, *_ in house.sql(COLUMNS) if house.sql(f"SELECT 1 FROM {table} LIMIT 1")}
    assert filled >= {f"public.{name}" for name in ("messages", "turn_steps", "memberships", "users", "sessions")}
    # The random part of a token: what surrounds it is told to everybody.
    for place, word in PLANTED.items() | {(f"token {token[:9]}", token[14:46]) for token in tokens}:
        assert [form for form in _forms(word) if form in raw] == [], place


def test_the_search_would_find_what_was_there(house: OwnDatabase) -> None:
    onboard(house.master(), "Shop")
    forms = _forms("Grünspecht")
    house.sql("UPDATE data_keys SET wrapped = %s", b"\x00\xff" + b"\xff".join(forms) + b"\xff")
    house.sql("UPDATE businesses SET website = %s, settings = %s", "see Grünspecht", '{"a": "Käuzchen"}')
    raw = _raw(house)
    assert [form for form in forms if form not in raw] == []
    assert raw.count("grünspecht".encode()) == 2
    assert "käuzchen".encode() in raw
