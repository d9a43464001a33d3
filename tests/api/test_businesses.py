"""Onboarding and describing a business."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from tests.conftest import Client, onboard

OWNER = {"email": "Owner@Example.com", "name": "Alice", "password": "a long pass phrase"}


def _new(**fields: Any) -> dict[str, Any]:
    return {"owner_id": str(uuid.uuid4()), "business_name": f"Shop {uuid.uuid4().hex}", **fields}


def test_onboarding_answers_with_the_whole_object_and_a_key_that_works(master: Client) -> None:
    body = _new(website="https://books.example", phone_number="+44 20 7946 0000")
    created = master.post("/api/v1/businesses", body)
    assert created.status == 201
    assert created.headers["Location"] == f"/api/v1/businesses/{created.body['business_id']}"
    assert created.body["business_information"]["website"] == "https://books.example"
    assert created.body["agent_list"] == created.body["product_list"] == created.body["service_list"] == []
    alice = Client(master.port, created.body["api_key"])
    seen = alice.get(f"/api/v1/businesses/{created.body['business_id']}")
    assert seen.status == 200
    assert "api_key" not in seen.body
    assert seen.body["owner_id"] == body["owner_id"]


def test_a_name_is_taken_once(master: Client) -> None:
    body = _new()
    assert master.post("/api/v1/businesses", body).status == 201
    again = master.post("/api/v1/businesses", body | {"owner_id": str(uuid.uuid4())})
    assert (again.status, again.error_code) == (409, "CONFLICT")
    assert "business_name" in again.body["details"]


def test_the_owners_login_is_stored_hashed_and_encrypted(
    master: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    body = _new(owner=OWNER | {"email": f"{uuid.uuid4().hex}@example.com"})
    assert master.post("/api/v1/businesses", body).status == 201
    [(email_hash, email, password_hash)] = sql(
        "SELECT login_email_hash, login_email, password_hash FROM users WHERE user_id = %s", body["owner_id"]
    )
    assert len(bytes(email_hash)) == 32
    assert body["owner"]["email"].encode() not in bytes(email)
    assert password_hash.startswith("$argon2id$")


def test_an_owner_with_a_login_keeps_it(master: Client) -> None:
    body = _new(owner=OWNER | {"email": f"{uuid.uuid4().hex}@example.com"})
    assert master.post("/api/v1/businesses", body).status == 201
    second = master.post("/api/v1/businesses", body | {"business_name": uuid.uuid4().hex})
    assert (second.status, second.error_code) == (409, "CONFLICT")


def test_one_address_is_one_login(master: Client) -> None:
    owner = OWNER | {"email": f"{uuid.uuid4().hex}@example.com"}
    assert master.post("/api/v1/businesses", _new(owner=owner)).status == 201
    again = master.post("/api/v1/businesses", _new(owner=owner | {"email": owner["email"].upper()}))
    assert (again.status, again.error_code) == (409, "CONFLICT")


def test_changes_replace_the_named_fields_only(alice: Client) -> None:
    path = f"/api/v1/businesses/{alice.business_id}"
    assert alice.patch(path, {"address": "1 Main St", "settings": {"messages_per_minute": 90}}).status == 200
    changed = alice.patch(path, {"business_description": "Books"})
    assert changed.body["address"] == "1 Main St"
    assert changed.body["settings"] == {"messages_per_minute": 90}
    assert changed.body["business_description"] == "Books"


def test_unknown_and_computed_fields_are_refused(alice: Client) -> None:
    refused: list[dict[str, Any]] = [{"agent_list": []}, {"colour": "red"}, {"settings": {"no_such": 1}}, {}]
    for field in refused:
        answer = alice.patch(f"/api/v1/businesses/{alice.business_id}", field)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")


def test_list_is_newest_first_and_pages_by_cursor(master: Client) -> None:
    made = [onboard(master, f"Paged {number}").business_id for number in range(5)]
    seen: list[str] = []
    path = "/api/v1/businesses?limit=2"
    while path and len(seen) < 5:
        page = master.get(path)
        seen += [business["business_id"] for business in page.body]
        link = page.headers.get("Link", "")
        path = link[link.index("/api") : link.index(">")] if link else ""
    assert seen[:5] == made[::-1]
    by_offset = master.get("/api/v1/businesses?limit=2&offset=1").body
    assert [business["business_id"] for business in by_offset] == made[::-1][1:3]


def test_deleting_a_business_ends_its_keys_and_destroys_its_data_key(
    master: Client, alice: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    another = master.delete(f"/api/v1/businesses/{alice.business_id}?business_id={uuid.uuid4()}")
    assert (another.status, another.error_code) == (400, "INVALID_REQUEST")
    assert master.delete(f"/api/v1/businesses/{alice.business_id}").status == 204
    assert master.get(f"/api/v1/businesses/{alice.business_id}").status == 404
    assert alice.get("/api/v1/stages").status == 401
    assert sql("SELECT count(*) FROM data_keys WHERE business_id = %s", alice.business_id) == [(0,)]
    assert master.delete(f"/api/v1/businesses/{alice.business_id}").status == 404


def test_a_business_key_may_not_onboard_list_or_delete(alice: Client) -> None:
    answers = [
        alice.post("/api/v1/businesses", _new()),
        alice.get("/api/v1/businesses"),
        alice.delete(f"/api/v1/businesses/{alice.business_id}"),
    ]
    assert [(answer.status, answer.error_code) for answer in answers] == [(403, "FORBIDDEN")] * 3


def test_charlie_asks_for_alices_business(alice: Client, charlie: Client) -> None:
    path = f"/api/v1/businesses/{alice.business_id}"
    for answer in (charlie.get(path), charlie.patch(path, {"address": "mine"})):
        assert (answer.status, answer.error_code) == (403, "FORBIDDEN")
    assert alice.get(path).body["address"] is None


def test_the_first_sketchs_path_answers_the_same(master: Client) -> None:
    created = master.post("/businesses", _new())
    assert created.status == 201
    assert created.body["api_key"].startswith("icmp_")
