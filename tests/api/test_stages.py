"""Stages: the full form and the flat one, what is refused when saved, and what never comes back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.conftest import Client

# The example of the contract, with its elisions filled in.
EXAMPLE: dict[str, Any] = {
    "agent_id": None,
    "stage_name": "order_status",
    "stage_type": "information",
    "stage_description": "The customer asks where an order is.",
    "stage_selection": {
        "prompt": {"template_id": "icmp.stage_selection", "model_settings": {}, "input_variables": []},
        "context_data_fields": {"cart": "metadata.cart"},
        "next_stages": None,
    },
    "data_extraction": {
        "prompt": {"template_id": "icmp.data_extraction", "model_settings": {}, "input_variables": []},
        "require_quote": False,
        "output_schema": {
            "type": "object",
            "properties": {
                "zip": {"type": "string"},
                "order_number": {"type": "string", "pattern": "^[0-9]{4,}$", "description": "The order's number"},
                "amount": {"type": "number"},
            },
            "required": ["order_number"],
        },
    },
    "data_retrieval": {
        "method": "database_query",
        "config": {
            "source": "orders",
            "where": {"order_number": "{{ data.order_number }}"},
            "fields": ["status", "items"],
            "limit": 5,
        },
    },
    "response_generation": {
        "prompt": {"template_id": "icmp.response_generation", "model_settings": {}, "input_variables": []},
        "context_data_fields": {},
        "fixed_text": None,
        "fallback_text": None,
    },
    "stage_selection_example_conversations": "Customer: where is my parcel?\nUs: Which order?",
}
FLAT = {"stage_name": "flat", "stage_type": "support", "stage_description": "Anything."}
SECRET = "hunter2-the-secret-of-the-shop"
API_CALL = {
    "method": "api_call",
    "config": {"url": "https://api.example/orders", "secret_headers": {"X-Token": SECRET}},
}


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve) as made:
        yield made


def test_the_contracts_example_is_stored_and_read_as_it_was_sent(alice: Client) -> None:
    created = alice.post("/api/v1/stages", EXAMPLE | {"business_id": alice.business_id})
    assert created.status == 201, created.body
    path = f"/api/v1/stages/{created.body['stage_id']}"
    assert created.headers["Location"] == path
    assert alice.get(path).body == created.body
    assert created.body["business_id"] == alice.business_id
    assert {name: created.body[name] for name in EXAMPLE} == EXAMPLE


def test_the_order_of_fields_survives_saving_and_changing(alice: Client) -> None:
    [stage_id] = shop.furnish(alice, EXAMPLE)
    path = f"/api/v1/stages/{stage_id}"
    assert list(alice.get(path).body["data_extraction"]["output_schema"]["properties"]) == [
        "zip",
        "order_number",
        "amount",
    ]
    turned = dict(reversed(EXAMPLE["data_extraction"]["output_schema"]["properties"].items()))
    section = {"output_schema": {"type": "object", "properties": turned}}
    assert alice.patch(path, {"data_extraction": section}).status == 200
    assert list(alice.get(path).body["data_extraction"]["output_schema"]["properties"]) == list(turned)


@pytest.mark.parametrize("texts", [{}, {"response_generation_prompt": "Answer like a pirate."}])
def test_the_flat_form_runs_all_three_prompts_with_its_own_texts(thinker: Thinker, texts: dict[str, str]) -> None:
    client = thinker.shop(FLAT | texts, shop.SMALL_TALK)
    thinker.script(
        stage_selection=shop.picks("flat"),
        data_extraction=shop.finds(key_information="a blue bicycle"),
        response_generation=shop.says("Aye."),
    )
    # The best local score belongs to the stage whose description is met, and its texts ask.
    answered = shop.write(client, "Anything at all?")
    assert (answered.status, answered.body["response"]) == (200, "Aye.")
    assert answered.body["data"] == {"key_information": "a blue bicycle"}
    assert answered.body["missing_fields"] == []
    assert "Determine the intent of this message:" in thinker.asked("stage_selection")[0]
    assert "Extract key information from this message:" in thinker.asked("data_extraction")[0]
    [reply] = thinker.asked("response_generation")
    assert texts.get("response_generation_prompt", "Generate a response based on this message:") in reply
    assert '"key_information": "a blue bicycle"' in reply


def test_flat_texts_become_new_versions_and_go_with_their_stage(alice: Client) -> None:
    [stage_id] = shop.furnish(alice, FLAT)
    path, template = f"/api/v1/stages/{stage_id}", f"/api/v1/templates/stage.{stage_id}.response_generation"
    # Ids are the same in either case.
    assert alice.patch(path.upper().replace("/API/V1/STAGES", "/api/v1/stages"), {
        "response_generation_prompt": "Answer in verse."
    }).status == 200  # fmt: skip
    assert (alice.get(template).body["version"], alice.get(template).body["text"]) == (2, "Answer in verse.")
    assert alice.delete(path).status == 204
    assert (alice.get(path).status, alice.get(template).status) == (404, 404)


def test_the_seeds_path_takes_the_flat_form(alice: Client) -> None:
    created = alice.post("/stages", FLAT | {"business_id": alice.business_id})
    assert created.status == 201
    assert list(created.body["data_extraction"]["output_schema"]["properties"]) == ["key_information"]


def test_changes_replace_the_named_fields_only(alice: Client) -> None:
    [stage_id] = shop.furnish(alice, EXAMPLE)
    path = f"/api/v1/stages/{stage_id}"
    before = alice.get(path).body
    after = alice.patch(path, {"stage_type": "closing", "response_generation": {"fixed_text": "Bye."}})
    assert after.status == 200
    assert after.body["response_generation"]["fixed_text"] == "Bye."
    assert after.body["updated_at"] > before["updated_at"]
    changed = {"stage_type", "response_generation", "updated_at"}
    assert {name for name in before if before[name] != after.body[name]} == changed


def test_a_prompt_may_name_its_settings_alone(alice: Client) -> None:
    prompt = {"model_settings": {"temperature": 0}}
    created = alice.post("/api/v1/stages", shop.SMALL_TALK | {"response_generation": {"prompt": prompt}})
    assert created.status == 201, created.body
    assert created.body["response_generation"]["prompt"]["template_id"] == "icmp.response_generation"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"data_extraction": {"output_schema": {"type": "array"}}}, "object"),
    ({"data_extraction": {"output_schema": {"type": "object", "properties": {"n": {"type": "text"}}}}}, "n"),
    ({"data_extraction": {"output_schema": {"type": "object", "required": ["ghost"]}}}, "ghost"),
    (
        {"data_extraction": {"output_schema": {"type": "object", "properties": {"n": {
            "type": "string", "pattern": "(?=look)"}}}}},
        "pattern",
    ),
    ({"response_generation": {"prompt": {"template_id": "no.such"}}}, "no.such"),
    ({"response_generation": {"prompt": {"template_id": "icmp.data_extraction"}}}, "data_extraction"),
    ({"response_generation": {"fixed_text": "Hello {{ nobody }}"}}, "nobody"),
    ({"response_generation": {"fallback_text": "Hello {{ user.name"}}, "fallback_text"),
    ({"response_generation": {"context_data_fields": {"cart": "nothing.cart"}}}, "nothing.cart"),
    ({"response_generation": {"context_data_fields": {"message": "metadata.x"}}}, "message"),
    ({"stage_selection": {"prompt": {"template_id": "icmp.stage_selection", "input_variables": ["cart"]}}}, "cart"),
    ({"data_retrieval": {"method": "database_query", "config": {"source": "secrets"}}}, "source"),
    ({"data_retrieval": {"method": "api_call", "config": {"url": "https://x.example/{{ cart }}"}}}, "cart"),
    (
        {"data_retrieval": {"method": "api_call", "config": {
            "url": "https://x.example/", "headers": {"X-Trace": "a\nb"}}}},
        "X-Trace",
    ),
    ({"data_retrieval": {"method": "prompt_user", "config": {"a": 1}}}, "config"),
    ({"response_generation_prompt": "{{ nobody }}"}, "nobody"),
    ({"response_generation_prompt": "x", "response_generation": {"fixed_text": "x"}}, "response_generation"),
    ({"agent_id": str(uuid.uuid4())}, "agent_id"),
    ({"response_generation": {"fixed_text": "x" * 16_385}}, "fixed_text"),
    ({"stage_name": "none"}, "stage_name"),
    ({"stage_name": " None "}, "stage_name"),
    ({"colour": "red"}, "colour"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "told"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_could_not_run_is_refused_when_saved(alice: Client, fault: dict[str, Any], told: str) -> None:
    refused = alice.post("/api/v1/stages", FLAT | fault)
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert told in refused.body["details"]
    assert alice.get("/api/v1/stages").body == []
    assert alice.get("/api/v1/templates").body[0]["business_id"] is None
    [stage_id] = shop.furnish(alice, FLAT)
    before = alice.get(f"/api/v1/stages/{stage_id}").body
    assert alice.patch(f"/api/v1/stages/{stage_id}", fault).status == 400
    assert alice.get(f"/api/v1/stages/{stage_id}").body == before


def test_a_name_is_taken_once_in_a_business(alice: Client, charlie: Client) -> None:
    shop.furnish(alice, FLAT, FLAT | {"stage_name": "other"})
    again = alice.post("/api/v1/stages", FLAT)
    assert (again.status, again.error_code) == (409, "CONFLICT")
    assert "stage_name" in again.body["details"]
    other = alice.get("/api/v1/stages").body[0]
    assert alice.patch(f"/api/v1/stages/{other['stage_id']}", {"stage_name": "flat"}).status == 409
    shop.furnish(charlie, FLAT)


def test_secret_headers_go_in_encrypted_and_never_come_out(
    alice: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    created = alice.post("/api/v1/stages", FLAT | {"data_retrieval": API_CALL})
    assert created.status == 201
    path = f"/api/v1/stages/{created.body['stage_id']}"
    for answer in (created, alice.get(path), alice.get("/api/v1/stages"), alice.patch(path, {"stage_type": "x"})):
        assert SECRET not in json.dumps(answer.body)
    question = "SELECT secret_headers, stages::text FROM stages WHERE stage_id = %s"
    [(sealed, row)] = sql(question, created.body["stage_id"])
    assert SECRET.encode() not in bytes(sealed)
    assert SECRET not in row
    # A new address must not inherit the secrets of the old one.
    changed = {"data_retrieval": {"method": "api_call", "config": {"url": "https://elsewhere.example/"}}}
    assert alice.patch(path, changed).status == 200
    assert sql(question, created.body["stage_id"])[0][0] is None


def test_a_stage_can_be_sent_back_as_it_was_read_and_keeps_its_secrets(
    alice: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    created = alice.post("/api/v1/stages", FLAT | {"data_retrieval": API_CALL}).body
    path, question = f"/api/v1/stages/{created['stage_id']}", "SELECT secret_headers FROM stages WHERE stage_id = %s"
    read = alice.get(path).body["data_retrieval"]
    assert read["config"]["secret_headers"] == {"X-Token": None}
    assert alice.get("/api/v1/stages").body[0]["data_retrieval"] == created["data_retrieval"] == read
    changed = alice.patch(path, {"data_retrieval": read})
    assert (changed.status, changed.body["data_retrieval"]) == (200, read)
    assert sql(question, created["stage_id"])[0][0] is not None
    moved = read | {"config": read["config"] | {"url": "https://elsewhere.example/"}}
    unknown = read | {"config": read["config"] | {"secret_headers": {"X-Other": None}}}
    for refused in (alice.patch(path, {"data_retrieval": wrong}) for wrong in (moved, unknown)):
        assert (refused.status, refused.body["remediation"]) == (400, "Send the value")
    new = alice.post("/api/v1/stages", FLAT | {"stage_name": "new", "data_retrieval": read})
    assert new.status == 400
    assert new.body["details"].startswith("data_retrieval.config.secret_headers.X-Token: null keeps a value")


def test_charlie_asks_for_alices_stage(alice: Client, charlie: Client) -> None:
    [stage_id] = shop.furnish(alice, EXAMPLE)
    path, missing = f"/api/v1/stages/{stage_id}", f"/api/v1/stages/{uuid.uuid4()}"
    same = {"X_Request_ID": "the-same-request-id"}
    assert charlie.get(path, **same).body == charlie.get(missing, **same).body
    assert charlie.patch(path, {"stage_name": "mine"}).status == 404
    assert charlie.delete(path).status == 404
    assert charlie.get("/api/v1/stages").body == []
    assert alice.get(path).body["stage_name"] == "order_status"


def test_a_flat_text_on_a_full_stage_replaces_the_prompt_alone(alice: Client) -> None:
    body = shop.stage("full", response_generation={"fallback_text": "Call us."})
    stage = alice.post("/api/v1/stages", body).body
    changed = alice.patch(f"/api/v1/stages/{stage['stage_id']}", {"response_generation_prompt": "Be brief."}).body
    assert changed["response_generation"]["fallback_text"] == "Call us."
    assert changed["response_generation"]["prompt"]["template_id"].startswith("stage.")


def test_a_flat_text_leaves_the_models_settings(alice: Client) -> None:
    settings = {"temperature": 0, "model": "m1"}
    prompt = {"template_id": "icmp.response_generation", "model_settings": settings}
    stage = alice.post("/api/v1/stages", shop.stage("full", response_generation={"prompt": prompt})).body
    changed = alice.patch(f"/api/v1/stages/{stage['stage_id']}", {"response_generation_prompt": "Be brief."}).body
    assert changed["response_generation"]["prompt"]["model_settings"] == settings


def test_a_flat_stage_may_look_something_up(alice: Client) -> None:
    look_up = {"method": "database_query", "config": {"source": "products"}}
    stage = alice.post("/api/v1/stages", FLAT | {"response_generation_prompt": "Hi.", "data_retrieval": look_up}).body
    assert list(stage["data_extraction"]["output_schema"]["properties"]) == ["key_information"]
    assert stage["stage_selection"]["prompt"]["template_id"].startswith("stage.")
