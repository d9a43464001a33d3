"""Keys of a business: shown once, rotated with overlap, ended by time or by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from tests.conftest import Client

Sql = Callable[..., list[tuple[Any, ...]]]


def _path(owner: Client, key_id: str = "") -> str:
    return f"/api/v1/businesses/{owner.business_id}/api-keys" + (f"/{key_id}" if key_id else "")


def _made(owner: Client, **fields: Any) -> tuple[dict[str, Any], Client]:
    """A new key and a client that uses it."""
    created = owner.post(_path(owner), fields) if fields else owner.call("POST", _path(owner), raw=b"{}")
    assert created.status == 201, created.body
    return created.body, Client(owner.port, created.body["api_key"], owner.business_id)


def _known(owner: Client) -> dict[str, dict[str, Any]]:
    return {key["key_id"]: key for key in owner.get(_path(owner)).body}


def _works(client: Client) -> bool:
    status = client.get(f"/api/v1/businesses/{client.business_id}").status
    assert status in {200, 401}
    return status == 200


def test_a_new_key_works_at_once_and_is_shown_only_then(alice: Client) -> None:
    created, second = _made(alice, name="web frontend")
    assert _works(second)
    assert created["name"] == "web frontend"
    assert created["last4"] == created["api_key"][-4:]
    listed = alice.get(_path(alice))
    assert listed.status == 200
    assert [key["name"] for key in listed.body] == ["web frontend", "first key"]
    assert created["api_key"] not in str(listed.body)
    assert all("api_key" not in key and "key_hash" not in key for key in listed.body)


def test_only_a_hash_of_a_key_is_stored(alice: Client, sql: Sql) -> None:
    created, second = _made(alice)
    token = second.post("/api/save-config", {"businessApiKey": created["api_key"]}).headers["Set-Cookie"]
    secrets = [created["api_key"], token.partition("=")[2].partition(";")[0]]
    stored = str(sql("SELECT to_jsonb(each)::text FROM api_keys each WHERE business_id = %s", alice.business_id))
    stored += str(sql("SELECT to_jsonb(each)::text FROM sessions each WHERE business_id = %s", alice.business_id))
    assert created["key_id"] in stored
    for secret in secrets:
        assert secret[14:46] not in stored
        assert secret.encode().hex() not in stored
    hashes = sql("SELECT key_hash FROM api_keys WHERE business_id = %s", alice.business_id)
    assert {len(bytes(key_hash)) for (key_hash,) in hashes} == {32}


def test_rotation_lets_the_old_keys_overlap_for_the_time_asked(alice: Client) -> None:
    before = datetime.now(UTC)
    created, second = _made(alice, expire_others_in_s=3600)
    assert _works(alice)
    assert _works(second)
    keys = _known(second)
    assert keys.pop(created["key_id"])["expires_at"] is None
    [old] = keys.values()
    end = datetime.fromisoformat(old["expires_at"])
    assert timedelta(minutes=59) < end - before < timedelta(minutes=61)


def test_rotation_never_prolongs_a_key_and_may_end_the_others_at_once(alice: Client) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    short, short_lived = _made(alice, expires_at=soon)
    _made(alice, expire_others_in_s=3600)
    assert datetime.fromisoformat(_known(alice)[short["key_id"]]["expires_at"]) == datetime.fromisoformat(soon)
    _, last = _made(alice, expire_others_in_s=0)
    assert [_works(client) for client in (alice, short_lived, last)] == [False, False, True]


def test_a_key_ends_when_its_time_has_come(alice: Client, sql: Sql) -> None:
    created, second = _made(alice, expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert _works(second)
    sql("UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s", created["key_id"])
    assert not _works(second)


@pytest.mark.parametrize(
    "field",
    [
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "2101-01-01"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expire_others_in_s": -1},
        {"expire_others_in_s": 604_801},
        {"expire_others_in_s": "60"},
        {"name": ""},
        {"name": "n" * 201},
        {"key_id": "00000000-0000-0000-0000-000000000000"},
    ],
)
def test_a_wrong_wish_for_a_key_is_refused_and_names_the_field(field: dict[str, Any], alice: Client) -> None:
    answer = alice.post(_path(alice), field)
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
    assert next(iter(field)) in answer.body["details"] + answer.body["message"]
    assert len(_known(alice)) == 1


def test_a_revoked_key_and_its_cookies_are_refused_at_once_on_every_instance(
    alice: Client, settings: Settings, serve: Callable[[Flask], int]
) -> None:
    other_port = serve(application.create_app(settings))
    created, second = _made(alice)
    saved = second.post("/api/save-config", {"businessApiKey": created["api_key"]})
    cookie = {"Cookie": saved.headers["Set-Cookie"].partition(";")[0]}
    holders = [
        Client(port, key, alice.business_id, headers)
        for port in (alice.port, other_port)
        for key, headers in ((second.key, {}), (None, cookie))
    ]
    assert [_works(holder) for holder in holders] == [True] * 4
    assert alice.delete(_path(alice, created["key_id"])).status == 204
    assert [_works(holder) for holder in holders] == [False] * 4
    assert _known(alice)[created["key_id"]]["revoked_at"] is not None
    assert alice.delete(_path(alice, created["key_id"])).status == 404


def test_a_key_that_soon_ends_says_so_on_each_answer(alice: Client) -> None:
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (13, 15))
    _, ending = _made(alice, expires_at=soon.isoformat())
    _, lasting = _made(alice, expires_at=later.isoformat())
    path = f"/api/v1/businesses/{alice.business_id}"
    saved = ending.post("/api/save-config", {"businessApiKey": ending.key})
    riding = Client(alice.port, None, alice.business_id, {"Cookie": saved.headers["Set-Cookie"].partition(";")[0]})
    for warned in (ending, riding):
        assert datetime.fromisoformat(warned.get(path).headers["X-ICMP-Key-Expires"]) == soon
    for calm in (lasting, alice):
        answer = calm.get(path)
        assert (answer.status, answer.headers.get("X-ICMP-Key-Expires")) == (200, None)


def test_the_last_use_is_written_down_at_most_once_a_minute(alice: Client, sql: Sql) -> None:
    created, second = _made(alice)
    assert _known(alice)[created["key_id"]]["last_used_at"] is None
    assert _works(second)
    first_use = _known(alice)[created["key_id"]]["last_used_at"]
    assert abs(datetime.fromisoformat(first_use) - datetime.now(UTC)) < timedelta(minutes=1)
    assert _works(second)
    assert _known(alice)[created["key_id"]]["last_used_at"] == first_use
    sql("UPDATE api_keys SET last_used_at = last_used_at - interval '2 minutes' WHERE key_id = %s", created["key_id"])
    assert _works(second)
    assert _known(alice)[created["key_id"]]["last_used_at"] > first_use


def test_a_refused_key_is_not_counted_as_used(alice: Client) -> None:
    created, second = _made(alice)
    assert alice.delete(_path(alice, created["key_id"])).status == 204
    assert not _works(second)
    assert _known(alice)[created["key_id"]]["last_used_at"] is None


def test_charlie_can_neither_see_make_nor_revoke_alices_keys(alice: Client, charlie: Client) -> None:
    key_id = next(iter(_known(alice)))
    answers = [
        charlie.get(_path(alice)),
        charlie.post(_path(alice), {"name": "mine"}),
        charlie.delete(_path(alice, key_id)),
    ]
    assert [(answer.status, answer.error_code) for answer in answers] == [(403, "FORBIDDEN")] * 3
    assert charlie.delete(_path(charlie, key_id)).status == 404
    assert _works(alice)
    assert list(_known(alice)) == [key_id]


def test_the_master_key_helps_out_a_business_without_keys(master: Client, alice: Client) -> None:
    assert alice.delete(_path(alice, next(iter(_known(alice))))).status == 204
    assert not _works(alice)
    created = master.post(_path(alice), {"name": "rescue"})
    assert created.headers["Location"] == _path(alice, created.body["key_id"])
    assert _works(Client(master.port, created.body["api_key"], alice.business_id))


def test_keys_are_listed_newest_first_page_by_page(alice: Client) -> None:
    made = [_made(alice, name=str(number))[0]["key_id"] for number in range(4)]
    seen: list[str] = []
    path = f"{_path(alice)}?limit=2"
    while path:
        page = alice.get(path)
        seen += [key["key_id"] for key in page.body]
        link = page.headers.get("Link", "")
        path = link[link.index("/api") : link.index(">")] if link else ""
    assert seen[:-1] == made[::-1]
    assert len(seen) == 5
