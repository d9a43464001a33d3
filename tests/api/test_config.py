"""A business's set-up as a document: out, in, out again, and nothing of anybody else's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from flask import Flask

from api import config_file
from api.parts import parts
from db import lookups
from tests.api import set_ups
from tests.api.set_ups import SECTIONS
from tests.conftest import Answer, Client, onboard

PATH = "/api/v1/config"
EMPTY: dict[str, Any] = {"version": 1, "business": {}} | {section: [] for section in SECTIONS}
EMPTY_NAMES: dict[str, Any] = {section: [] for section in SECTIONS}
SECRET = "hunter2-of-the-shop"


def _put(client: Client, document: Any, query: str = "") -> Answer:
    return client.call("PUT", PATH + query, document)


def _set_up(client: Client, document: Any) -> dict[str, Any]:
    answer = _put(client, document)
    assert answer.status == 200, answer.body
    return dict(answer.body)


def _raw(client: Client) -> bytes:
    connection = HTTPConnection("127.0.0.1", client.port, timeout=30)
    connection.request("GET", PATH, headers={"Authorization": f"Bearer {client.key}"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    return body


def _touched(difference: dict[str, Any]) -> bool:
    return any(names for kind in ("created", "changed", "deleted") for names in difference[kind].values())


def _calling(secrets: dict[str, str | None], url: str = "https://api.example/orders") -> dict[str, Any]:
    call = {"method": "api_call", "config": {"url": url, "secret_headers": secrets}}
    return EMPTY | {"stages": [set_ups.stage(data_retrieval=call)]}


@pytest.mark.parametrize("seed", range(12))
def test_a_set_up_goes_out_and_in_and_out_again_unchanged(master: Client, alice: Client, seed: int) -> None:
    made = set_ups.Maker(seed).document()
    first = _set_up(alice, made)
    assert {section: len(first["created"][section]) for section in SECTIONS} == {
        section: len(made[section]) for section in SECTIONS
    }, f"seed {seed}"
    raw = _raw(alice)
    document = json.loads(raw)
    assert not _touched(_set_up(alice, made)), f"seed {seed}: what was written by hand is no change"
    assert not _touched(_set_up(alice, document)), f"seed {seed}"
    assert _raw(alice) == raw, f"seed {seed}"
    file = config_file.written(document)
    read_back = config_file.parsed(file.encode())
    assert json.dumps(read_back) == json.dumps(document), f"seed {seed}"
    other = onboard(master, "Dora's Drinks")
    _set_up(other, read_back)
    assert _raw(other) == raw, f"seed {seed}"


def _full() -> dict[str, Any]:
    """One of each."""
    return EMPTY | {
        "agents": [{"agent_name": "Robin", "is_default": True}],
        "templates": [{"template_id": "own.reply", "kind": "response_generation", "text": "Answer."}],
        "stages": [set_ups.stage(agent_name="Robin", response_generation={"prompt": {"template_id": "own.reply"}})],
        "products": [{"name": "Atlas", "sku": "BK-1", "price": 6, "currency": "GBP"}],
        "services": [{"name": "Repair"}],
    }


def _all(client: Client) -> dict[str, Any]:
    """What the resources themselves show."""
    return {section: client.get(f"/api/v1/{section}").body for section in SECTIONS}


def test_what_keeps_its_name_keeps_its_id_and_what_is_gone_is_deleted(alice: Client) -> None:
    _set_up(alice, _full())
    before = _all(alice)
    wanted = _full() | {
        "business": {"website": "https://books.example"},
        "agents": [{"agent_name": "Robin", "instructions": "Be brief."}],
        "stages": [_full()["stages"][0] | {"response_generation": {"fallback_text": "Later."}}, set_ups.stage("new")],
        "templates": [],
        "products": [],
    }
    expected = {
        "created": EMPTY_NAMES | {"stages": ["new"]},
        "changed": EMPTY_NAMES
        | {
            "business": ["website"],
            "agents": [{"name": "Robin", "fields": ["instructions", "is_default"]}],
            "stages": [
                {"name": "reply", "fields": ["response_generation.prompt", "response_generation.fallback_text"]}
            ],
        },
        "deleted": EMPTY_NAMES | {"templates": ["own.reply"], "products": ["BK-1"]},
        "unchanged": EMPTY_NAMES | {"services": ["Repair"]},
    }
    assert _put(alice, wanted, "?dry_run=true").body == expected
    assert _all(alice) == before
    assert _set_up(alice, wanted) == expected
    after = _all(alice)
    assert after["services"] == before["services"]
    assert after["products"] == []
    assert after["agents"][0]["agent_id"] == before["agents"][0]["agent_id"]
    assert after["stages"][1]["stage_id"] == before["stages"][0]["stage_id"]
    assert alice.get("/api/v1/templates/own.reply").status == 404


def test_a_conversation_goes_on_in_its_stage(alice: Client) -> None:
    _set_up(alice, _full())
    message = {"user_id": "0b1d0000-0000-4000-8000-000000000009", "message": "Hello?"}
    first = alice.post("/api/v1/messages", message).body
    _set_up(alice, _full() | {"stages": [_full()["stages"][0] | {"stage_description": "Anything at all."}]})
    assert alice.get(f"/api/v1/conversations/{first['conversation_id']}").body["stage_name"] == "reply"
    second = alice.post("/api/v1/messages", message).body
    assert (second["conversation_id"], second["stage"]["stage_id"]) == (
        first["conversation_id"],
        first["stage"]["stage_id"],
    )


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"stages": [set_ups.stage("none")]}, "stages[0].stage_name"),
        ({"stages": [set_ups.stage(), set_ups.stage()]}, "stages[1]: 'reply' stands twice"),
        ({"stages": [set_ups.stage(agent_name="Nobody")]}, "stages[0].agent_name"),
        (
            {"stages": [set_ups.stage(stage_selection={"next_stages": ["reply", "replies"]})]},
            "stages[0].stage_selection.next_stages: 'replies' is not among the stages",
        ),
        ({"stages": [set_ups.stage(stage_id="x")]}, "stages[0].stage_id: unknown field"),
        (
            {"stages": [set_ups.stage(data_extraction={"output_schema": {"type": "array"}})]},
            "stages[0].data_extraction.output_schema",
        ),
        ({"stages": [set_ups.stage(data_extraction={"promt": {}})]}, "stages[0].data_extraction.promt"),
        (
            {"stages": [set_ups.stage(response_generation={"prompt": {"text": "{{ nobody }}"}})]},
            "stages[0].response_generation.prompt",
        ),
        (
            {"stages": [set_ups.stage(response_generation={"prompt": {"text": "{{ x"}})]},
            "stages[0].response_generation.prompt.text",
        ),
        (
            {"stages": [set_ups.stage(response_generation={"prompt": {"text": "a", "template_id": "b"}})]},
            "template_id and text",
        ),
        (
            {"stages": [set_ups.stage(stage_selection={"prompt": {"template_id": "own.reply"}})]},
            "stages[0].stage_selection.prompt",
        ),
        (
            {"stages": [set_ups.stage(data_retrieval={"method": "api_call", "config": {"url": "http://localhost/"}})]},
            "stages[0].data_retrieval.config.url",
        ),
        ({"templates": []}, "stages[0].response_generation.prompt.template_id: 'own.reply'"),
        (
            {"templates": [{"template_id": "a", "kind": "response_generation", "text": "{{ x }}"}]},
            "templates[0].text: unknown name 'x'",
        ),
        ({"agents": [{"agent_name": "Robin", "business_id": "x"}]}, "agents[0]: 'business_id'"),
        ({"agents": [{"agent_name": name, "is_default": True} for name in ("Robin", "Ada")]}, "agents[1].is_default"),
        (
            {"templates": [{"template_id": "icmp.stage_selection", "kind": "response_generation", "text": "x"}]},
            "templates[0].kind: the global template of this name is one for stage_selection",
        ),
        ({"products": [{"name": "A", "price": 1.00001}]}, "products[0].price"),
        ({"services": [{"name": name, "sku": "A"} for name in "BC"]}, "services[1]: 'A' stands twice"),
        ({"business": {"website": "ftp://x"}}, "business.website"),
        ({"version": 2}, "version"),
    ],
)
def test_a_fault_names_its_place_and_nothing_is_changed(alice: Client, changes: dict[str, Any], place: str) -> None:
    _set_up(alice, _full())
    before = _all(alice)
    for query in ("", "?dry_run=true"):
        answer = _put(alice, _full() | changes, query)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
        assert place in answer.body["details"]
    assert _all(alice) == before


def test_a_name_that_stands_for_no_stage_is_left_out_of_the_document(alice: Client) -> None:
    stage = set_ups.stage(stage_selection={"next_stages": ["not_yet"]})
    assert alice.post("/api/v1/stages", stage).status == 201
    document = alice.get(PATH).body
    assert document["stages"][0]["stage_selection"] == {"next_stages": []}
    selection = [{"name": "reply", "fields": ["stage_selection.next_stages"]}]
    assert _set_up(alice, document)["changed"]["stages"] == selection
    assert not _touched(_set_up(alice, document))


def test_a_document_is_whole(alice: Client) -> None:
    for section in ("version", "business", *SECTIONS):
        part = {name: value for name, value in EMPTY.items() if name != section}
        assert _put(alice, part).body["details"] == f"{section}: missing"


def test_a_secret_that_is_sent_again_is_no_change(alice: Client) -> None:
    _set_up(alice, EMPTY | {"stages": [set_ups.stage()]})
    assert _touched(_set_up(alice, _calling({"X-Key": SECRET})))
    assert not _touched(_set_up(alice, _calling({"X-Key": SECRET})))
    assert _touched(_set_up(alice, _calling({"X-Key": "another"})))
    assert _touched(_set_up(alice, _calling({"X-Key": SECRET}, "https://api.example/elsewhere")))


def test_secrets_stay_at_home(alice: Client, charlie: Client, flask_app: Flask) -> None:
    _set_up(alice, _calling({"X-Token": SECRET, "X-Other": "b"}))
    raw = _raw(alice)
    assert SECRET not in raw.decode()
    document = json.loads(raw)
    assert document["stages"] == _calling({"X-Token": None, "X-Other": None})["stages"]
    document["stages"][0]["stage_description"] = "Something else."
    document["stages"][0]["data_retrieval"]["config"]["secret_headers"]["X-Other"] = "c"
    _set_up(alice, document)
    [stage] = alice.get("/api/v1/stages").body
    with flask_app.app_context():
        found = parts()
        with found.database.transaction(alice.business_id) as conn:
            cipher = found.key_store.cipher(conn, alice.business_id)
            _, stored = lookups.find_api_call(conn, alice.business_id, cipher, stage["stage_id"])
    assert stored == {"X-Token": SECRET, "X-Other": "c"}
    elsewhere = _calling({"X-Token": None}, "https://thief.example/orders")
    for client, asked in ((alice, elsewhere), (charlie, document), (alice, _calling({"X-New": None}))):
        refused = _put(client, asked)
        assert refused.status == 400
        assert "stages[0].data_retrieval.config.secret_headers.X-" in refused.body["details"]
    _set_up(charlie, _calling({"X-Token": "mine", "X-Other": "mine"}))
    _set_up(alice, _calling({"X-Token": None, "X-Other": None}))
    assert _raw(charlie) == _raw(alice)


def test_texts_of_the_flat_form_travel_with_their_stage(alice: Client, charlie: Client) -> None:
    alice.post("/api/v1/stages", set_ups.stage(response_generation_prompt="Answer like a pirate.\nAlways."))
    raw = _raw(alice)
    document = json.loads(raw)
    assert document["templates"] == []
    assert document["stages"][0]["response_generation"] == {"prompt": {"text": "Answer like a pirate.\nAlways."}}
    assert not _touched(_set_up(alice, document))
    _set_up(charlie, document)
    assert _raw(charlie) == raw
    [stage] = charlie.get("/api/v1/stages").body
    own = f"stage.{stage['stage_id']}.response_generation"
    assert stage["response_generation"]["prompt"]["template_id"] == own
    document["stages"][0]["response_generation"]["prompt"]["text"] = "Answer."
    assert _set_up(charlie, document)["changed"]["stages"] == [
        {"name": "reply", "fields": ["response_generation.prompt"]}
    ]
    assert charlie.get(f"/api/v1/templates/{own}").body["version"] == 2
    _set_up(charlie, EMPTY)
    assert charlie.get(f"/api/v1/templates/{own}").status == 404


def test_products_of_one_name_travel_together(alice: Client, charlie: Client) -> None:
    made = [{"name": "Bread", "price": price} for price in (3, 1, 2, 1)]
    made += [{"name": "Bread (2)"}, {"name": "Roll", "sku": "Bread"}]
    for product in made:
        assert alice.post("/api/v1/products", product).status == 201
    document = alice.get(PATH).body
    assert sorted(document["products"], key=json.dumps) == sorted(made, key=json.dumps)
    found = _set_up(charlie, document)
    assert len(found["created"]["products"]) == len(made)
    assert charlie.get(PATH).body == document
    for client in (alice, charlie):
        assert not _touched(_set_up(client, document | {"products": document["products"][::-1]}))
    found = _set_up(alice, EMPTY | {"products": [{"name": "Bread", "price": 1}]})
    assert (len(found["deleted"]["products"]), len(alice.get("/api/v1/products").body)) == (5, 1)


def test_stages_keep_the_order_in_which_models_see_them(alice: Client, charlie: Client) -> None:
    for name in ("zeta", "alpha", "mid"):
        assert alice.post("/api/v1/stages", set_ups.stage(name)).status == 201
    document = alice.get(PATH).body
    _set_up(charlie, document)
    for client in (alice, charlie):
        assert [stage["stage_name"] for stage in client.get(PATH).body["stages"]] == ["zeta", "alpha", "mid"]
        assert [stage["stage_name"] for stage in client.get("/api/v1/stages").body] == ["mid", "alpha", "zeta"]


def test_writers_at_the_same_time_take_turns(alice: Client) -> None:
    wanted = [_full() | {"stages": [set_ups.stage(f"{number} {each}") for each in range(8)]} for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda document: _put(alice, document), wanted))
    assert [answer.status for answer in answers] == [200] * 4
    names = {stage["stage_name"] for stage in alice.get("/api/v1/stages").body}
    assert names in [{stage["stage_name"] for stage in document["stages"]} for document in wanted]


def test_charlie_reaches_and_makes_only_what_is_his(alice: Client, charlie: Client, master: Client) -> None:
    _set_up(alice, _full())
    before = _all(alice)
    for method, body in (("GET", None), ("PUT", EMPTY)):
        refused = charlie.call(method, f"{PATH}?business_id={alice.business_id}", body)
        assert (refused.status, refused.error_code) == (403, "FORBIDDEN")
        assert Client(alice.port).call(method, PATH, body).status == 401
        assert master.call(method, PATH, body).status == 400
        unknown = master.call(method, f"{PATH}?business_id=0b1d0000-0000-4000-8000-00000000dead", body)
        assert unknown.status == 404
    _set_up(charlie, json.loads(_raw(alice)))
    _set_up(charlie, EMPTY | {"agents": [{"agent_name": "Robin", "instructions": "Charlie's."}]})
    assert _all(alice) == before
    assert charlie.get("/api/v1/agents").body[0]["agent_id"] != before["agents"][0]["agent_id"]
    assert master.get(f"{PATH}?business_id={alice.business_id}").body == alice.get(PATH).body
