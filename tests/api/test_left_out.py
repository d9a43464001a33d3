"""What callers may leave out, or say although it says nothing new."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.api import shop
from tests.conftest import Client

SAID_NOTHING = {"conversation_id": None, "session_id": None, "metadata": None, "stream": None}
GET_API = {"url": "https://api.example/x", "method": "GET", "headers": {}, "secret_headers": {}, "query": {}}


def test_null_is_what_a_frontend_sends_before_it_has_a_conversation(alice: Client) -> None:
    shop.furnish(alice, shop.ORDER_STATUS)
    body = {"user_id": str(uuid.uuid4()), "message": "Where is my order 4411?"}
    key = str(uuid.uuid4())
    first = alice.post("/api/v1/messages", body | SAID_NOTHING, Idempotency_Key=key)
    assert first.status == 200, first.body
    again = alice.post("/api/v1/messages", body, Idempotency_Key=key)  # the same request, said otherwise
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (200, first.body, "true")


def test_save_config_takes_null_for_no_business(alice: Client, anybody: Client) -> None:
    saved = anybody.post("/api/save-config", {"businessApiKey": alice.key, "businessId": None})
    assert (saved.status, saved.body["business_id"]) == (200, alice.business_id)


def test_the_own_business_may_be_named_wherever_there_is_a_body(alice: Client, charlie: Client) -> None:
    home = f"/api/v1/businesses/{alice.business_id}"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", home, {"address": "1 Quay"}),
        ("POST", f"{home}/api-keys", {"name": "second"}),
        ("PUT", "/api/v1/config?dry_run=true", alice.get("/api/v1/config").body),
    ]
    for method, path, body in calls:
        named = alice.call(method, path, body | {"business_id": alice.business_id})
        assert named.status in (200, 201), named.body
        foreign = alice.call(method, path, body | {"business_id": charlie.business_id})
        assert (foreign.status, foreign.error_code) == (403, "FORBIDDEN")


def test_the_master_key_names_one_business_and_not_two(master: Client, alice: Client, charlie: Client) -> None:
    home, body = f"/api/v1/businesses/{alice.business_id}", {"address": "1 Quay"}
    for path in (home, f"{home}?business_id={charlie.business_id}"):
        refused = master.patch(path, body | {"business_id": charlie.business_id})
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
        assert "different businesses" in refused.body["details"]
    assert master.patch(home, body | {"business_id": alice.business_id}).status == 200


def test_a_body_of_which_nothing_is_needed_may_be_missing(alice: Client) -> None:
    made = alice.call("POST", f"/api/v1/businesses/{alice.business_id}/api-keys", Content_Type="")
    assert made.status == 201, made.body
    needed = alice.call("POST", "/api/v1/products", Content_Type="")
    assert (needed.status, needed.error_code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("config", [{"body": None}, {"result_path": None}, {"timeout_s": 10, "result_path": ""}])
def test_an_api_call_may_have_all_its_fields(alice: Client, config: dict[str, Any]) -> None:
    section = {"method": "api_call", "config": GET_API | config}
    made = alice.post("/api/v1/stages", shop.stage("calls", data_retrieval=section))
    assert made.status == 201, made.body


def test_an_empty_output_schema_asks_for_nothing(alice: Client) -> None:
    made = alice.post("/api/v1/stages", shop.stage("greets", data_extraction={"output_schema": {}}))
    assert made.status == 201, made.body
    assert made.body["data_extraction"]["output_schema"]["properties"] == {}


def test_one_event_is_no_larger_than_any_body(alice: Client) -> None:
    event = {
        "event_id": str(uuid.uuid4()),
        "business_id": alice.business_id,
        "event_type": "big",
        "event_timestamp": "2026-01-01T00:00:00Z",
        "event_data": {"text": "x" * 2**20},
    }
    alone = alice.call("POST", "/api/v1/events", raw=json.dumps(event).encode())
    assert (alone.status, alone.error_code) == (413, "PAYLOAD_TOO_LARGE")
    assert alice.call("POST", "/api/v1/events", raw=json.dumps([event]).encode()).status == 201
