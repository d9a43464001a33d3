"""Trying a stage: every step is shown, the stage stays, and nothing is left behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from api import demo
from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.conftest import Client, onboard
from tests.nlp import model_server

Sql = Callable[..., list[tuple[Any, ...]]]
KINDS = ["stage_selection", "data_extraction", "data_retrieval", "response_generation"]


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve) as made:
        yield made


@pytest.fixture
def stages(alice: Client) -> dict[str, str]:
    """The demo's stages in Alice's business: name → id."""
    bodies = demo.set_up()["stages"]
    return dict(zip((body["stage_name"] for body in bodies), shop.furnish(alice, *bodies), strict=True))


def _try(client: Client, stage_id: str, message: str = "Where is order 4411?", **fields: Any) -> Any:
    return client.post(f"/api/v1/stages/{stage_id}/try", {"message": message, **fields})


def test_a_trial_shows_every_step_and_its_result(alice: Client, stages: dict[str, str]) -> None:
    customer = str(uuid.uuid4())
    items = [{"name": "The Lighthouse Atlas", "quantity": 1, "unit_price": 19.5}]
    order = {"user_id": customer, "order_number": "4411", "status": "sent", "items": items, "currency": "GBP"}
    assert alice.post("/api/v1/orders", order).status == 201
    tried = _try(alice, stages["order_status"], user_id=customer)
    assert (tried.status, tried.body["stage_id"]) == (200, stages["order_status"])
    assert [(step["kind"], step["outcome"]) for step in tried.body["steps"]] == [(kind, "ok") for kind in KINDS]
    assert all(step["prompt"] for step in tried.body["steps"])
    assert (tried.body["data"], tried.body["missing_fields"]) == ({"order_number": "4411"}, [])
    assert [row["status"] for row in tried.body["retrieved"]["rows"]] == ["sent"]
    assert tried.body["response"]
    assert tried.body["timings_ms"]["total"] >= tried.body["timings_ms"]["data_retrieval"] > 0
    assert _try(alice, stages["order_status"]).body["retrieved"] == {"rows": []}
    assert _try(alice, stages["order_status"], user_id=str(uuid.uuid4())).body["retrieved"] == {"rows": []}


def test_the_tried_stage_stays_whatever_is_selected(alice: Client, stages: dict[str, str]) -> None:
    tried = _try(alice, stages["order_status"], "My book arrived damaged, the cover is torn.").body
    assert tried["steps"][0]["output"]["stage"] == "complaint"
    assert {step["stage_name"] for step in tried["steps"][1:]} == {"order_status"}
    assert (tried["missing_fields"], tried["retrieved"]) == (["order_number"], None)


def test_what_was_known_and_said_before_counts(alice: Client, stages: dict[str, str]) -> None:
    history = [{"sender_type": "ai", "message_content": "What is your order number?"}]
    tried = _try(alice, stages["order_status"], "Any news?", data={"order_number": "5120"}, history=history).body
    assert (tried["data"], tried["missing_fields"]) == ({"order_number": "5120"}, [])
    roles = [(each["role"], each["content"]) for each in tried["steps"][-1]["prompt"]]
    assert ("assistant", "What is your order number?") in roles


def test_nothing_is_stored(alice: Client, stages: dict[str, str], sql: Sql) -> None:
    def counts() -> dict[str, int]:
        names = sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        return {name: sql(f'SELECT count(*) FROM "{name}"')[0][0] for (name,) in names if name != "rate_buckets"}

    before = counts()
    assert before["stages"] >= len(stages)
    for stage_id in stages.values():
        assert _try(alice, stage_id, user_id=str(uuid.uuid4())).status == 200
    assert counts() == before


def test_a_model_that_is_down_is_an_error_and_a_fallback_text_is_not(thinker: Thinker) -> None:
    client = onboard(thinker.master, "Shop")
    bare, kind = shop.furnish(client, shop.ORDER_STATUS, shop.stage("kind", fallback_text="Please write again."))
    thinker.script(**dict.fromkeys(KINDS, model_server.fails(401)))
    down = _try(client, bare)
    assert (down.status, down.error_code, "Retry-After" in down.headers) == (503, "LLM_UNAVAILABLE", True)
    kept = _try(client, kind).body
    assert (kept["response"], kept["degraded"], kept["steps"][0]["outcome"]) == ("Please write again.", True, "failed")


def test_charlie_cannot_try_alices_stage(alice: Client, charlie: Client, stages: dict[str, str]) -> None:
    foreign, missing = _try(charlie, stages["greeting"]), _try(charlie, str(uuid.uuid4()))
    assert (foreign.status, foreign.error_code) == (404, "NOT_FOUND")
    assert foreign.body | {"request_id": ""} == missing.body | {"request_id": ""}


def test_master_names_the_business_and_nobody_gets_in_without_a_key(
    master: Client, anybody: Client, alice: Client, stages: dict[str, str]
) -> None:
    assert _try(master, stages["greeting"], "Hello", business_id=alice.business_id).status == 200
    assert _try(master, stages["greeting"], "Hello").status == 400
    assert _try(anybody, stages["greeting"], "Hello").status == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": " "},
        {"message": "x", "history": [{"sender_type": "system", "message_content": "x"}]},
        {"message": "x", "data": []},
        {"message": "x", "user_id": "me"},
        {"message": "x", "stage_name": "y"},
    ],
)
def test_a_malformed_trial_is_refused(alice: Client, stages: dict[str, str], body: dict[str, Any]) -> None:
    refused = alice.post(f"/api/v1/stages/{stages['greeting']}/try", body)
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
