"""Prompt templates: a business's own before the global ones, every version kept, none that breaks a stage."""

from __future__ import annotations

import uuid
from typing import Any

from tests.api import shop
from tests.conftest import Client

REPLY = "icmp.response_generation"


def _new(template_id: str = "support.reply", **changes: Any) -> dict[str, Any]:
    return {"template_id": template_id, "kind": "response_generation", "text": "Be {{ agent.agent_name }}."} | changes


def _stage_with(template_id: str, **section: Any) -> dict[str, Any]:
    reply = {"prompt": {"template_id": template_id}, **section}
    return shop.stage("support") | {"response_generation": reply}


def test_every_change_makes_a_new_version_and_old_ones_stay_readable(alice: Client) -> None:
    created = alice.post("/api/v1/templates", _new())
    assert (created.status, created.headers["Location"]) == (201, "/api/v1/templates/support.reply")
    assert (created.body["version"], created.body["input_variables"]) == (1, ["agent"])
    changed = alice.patch("/api/v1/templates/support.reply", {"text": "Answer {{ user.name }}."})
    assert (changed.status, changed.body["version"], changed.body["input_variables"]) == (200, 2, ["user"])
    for nothing in ({}, {"business_id": alice.business_id}):
        assert alice.patch("/api/v1/templates/support.reply", nothing).status == 400
    assert alice.get("/api/v1/templates/support.reply").body == changed.body
    assert alice.get("/api/v1/templates/support.reply?version=1").body == created.body
    assert alice.get("/api/v1/templates/support.reply?version=3").status == 404
    listed = {each["template_id"]: each["version"] for each in alice.get("/api/v1/templates").body}
    assert listed["support.reply"] == 2
    assert listed[REPLY] >= 1


def test_a_text_has_at_most_16_kib(alice: Client) -> None:
    fits, longer = "é" * 8192, "é" * 8193
    assert alice.post("/api/v1/templates", _new() | {"text": fits}).status == 201
    refused = alice.patch("/api/v1/templates/support.reply", {"text": longer})
    assert (refused.status, refused.body["remediation"]) == (400, "Send at most 16384 bytes")
    assert alice.get("/api/v1/templates/support.reply").body["text"] == fits


def test_a_name_is_created_once(alice: Client) -> None:
    assert alice.post("/api/v1/templates", _new()).status == 201
    again = alice.post("/api/v1/templates", _new(text="Other"))
    assert (again.status, again.error_code) == (409, "CONFLICT")
    assert "template_id" in again.body["details"]


def test_the_businesses_own_template_hides_the_global_one_with_all_its_versions(
    master: Client, alice: Client, charlie: Client
) -> None:
    name = f"global.{uuid.uuid4().hex}"
    assert master.post("/api/v1/templates", _new(name, text="Global.")).body["business_id"] is None
    assert master.patch(f"/api/v1/templates/{name}", {"text": "Global again."}).status == 200
    assert alice.get(f"/api/v1/templates/{name}").body["text"] == "Global again."
    assert alice.post("/api/v1/templates", _new(name, text="Mine.")).status == 201
    assert alice.get(f"/api/v1/templates/{name}").body["text"] == "Mine."
    assert alice.get(f"/api/v1/templates/{name}?version=2").status == 404
    assert charlie.get(f"/api/v1/templates/{name}").body["text"] == "Global again."
    assert alice.delete(f"/api/v1/templates/{name}").status == 204
    assert alice.get(f"/api/v1/templates/{name}").body["text"] == "Global again."


def test_a_business_key_changes_no_global_template(alice: Client) -> None:
    path = f"/api/v1/templates/{REPLY}"
    for answer in (alice.patch(path, {"text": "Mine now"}), alice.delete(path)):
        assert (answer.status, answer.error_code) == (403, "FORBIDDEN")


def test_the_platforms_defaults_and_global_templates_in_use_stay(master: Client, alice: Client) -> None:
    assert master.delete(f"/api/v1/templates/{REPLY}").status == 409
    name = f"global.{uuid.uuid4().hex}"
    assert master.post("/api/v1/templates", _new(name)).status == 201
    [stage_id] = shop.furnish(alice, _stage_with(name))
    refused = master.delete(f"/api/v1/templates/{name}")
    assert (refused.status, "1 stages" in refused.body["details"]) == (409, True)
    breaking = master.patch(f"/api/v1/templates/{name}", {"text": "{{ cart }}", "input_variables": ["cart"]})
    assert (breaking.status, breaking.error_code) == (400, "INVALID_REQUEST")
    assert alice.delete(f"/api/v1/stages/{stage_id}").status == 204
    assert master.delete(f"/api/v1/templates/{name}").status == 204


def test_names_beyond_the_platforms_must_be_declared(alice: Client) -> None:
    text = "The cart holds {{ cart.items }}."
    refused = alice.post("/api/v1/templates", _new(text=text))
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert "cart" in refused.body["details"]
    assert alice.post("/api/v1/templates", _new(text=text, input_variables=["cart"])).status == 201
    for bad in ("{{ cart", "{{ 1 }}", "{{ message.__class__() }}", "{{ x" + "y" * 70 + " }}"):
        assert alice.post("/api/v1/templates", _new("other", text=bad)).status == 400, bad


def test_a_change_that_would_break_a_stage_is_refused(alice: Client) -> None:
    assert alice.post("/api/v1/templates", _new()).status == 201
    [stage_id] = shop.furnish(alice, _stage_with("support.reply"))
    change = {"text": "{{ cart }}", "input_variables": ["cart"]}
    refused = alice.patch("/api/v1/templates/support.reply", change)
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert "support" in refused.body["details"]
    assert "cart" in refused.body["details"]
    assert alice.get("/api/v1/templates/support.reply").body["version"] == 1
    section = {"prompt": {"template_id": "support.reply"}, "context_data_fields": {"cart": "metadata.cart"}}
    assert alice.patch(f"/api/v1/stages/{stage_id}", {"response_generation": section}).status == 200
    assert alice.patch("/api/v1/templates/support.reply", change).status == 200


def test_an_own_template_takes_the_place_of_a_global_one_only_if_stages_can_use_it(alice: Client) -> None:
    shop.furnish(alice, shop.stage("support"))
    unfit = (
        _new(REPLY, kind="stage_selection"),
        _new(REPLY, text="{{ cart }}", input_variables=["cart"]),
    )
    for body in unfit:
        refused = alice.post("/api/v1/templates", body)
        assert (refused.status, "support" in refused.body["details"]) == (400, True), refused.body
    assert alice.post("/api/v1/templates", _new(REPLY)).status == 201
    # The global one takes over again, so the stage still has a text.
    assert alice.delete(f"/api/v1/templates/{REPLY}").status == 204


def test_an_own_template_hides_no_global_one_of_another_kind(alice: Client) -> None:
    """Every stage that names no template would break."""
    text = {"template_id": "icmp.stage_selection", "text": "Hello.", "kind": "response_generation"}
    refused = alice.post("/api/v1/templates", text)
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert "stage_selection" in refused.body["details"]
    assert alice.post("/api/v1/templates", text | {"kind": "stage_selection"}).status == 201


def test_an_own_template_stays_though_a_global_one_of_another_kind_takes_its_name(
    master: Client, alice: Client
) -> None:
    alice.post("/api/v1/templates", _new("sup.x"))
    assert master.post("/api/v1/templates", _new("sup.x", kind="data_extraction", text="Extract.")).status == 201
    document = alice.get("/api/v1/config").body
    assert alice.call("PUT", "/api/v1/config", document).body["unchanged"]["templates"] == ["sup.x"]
    document["templates"][0]["kind"] = "stage_selection"
    assert alice.call("PUT", "/api/v1/config", document).status == 400


def test_a_stages_own_text_stays_as_long_as_another_stage_names_it(alice: Client) -> None:
    flat = {"stage_name": "a", "stage_type": "x", "stage_description": "A.", "response_generation_prompt": "Say hi."}
    first = alice.post("/api/v1/stages", flat).body
    name = first["response_generation"]["prompt"]["template_id"]
    assert alice.post("/api/v1/stages", _stage_with(name)).status == 201
    assert alice.delete(f"/api/v1/stages/{first['stage_id']}").status == 204
    document = alice.get("/api/v1/config").body
    assert alice.call("PUT", "/api/v1/config", document).body["unchanged"]["stages"] == ["support"]
    assert alice.get(f"/api/v1/templates/{name}").body["text"] == "Say hi."
    assert alice.get("/api/v1/config").body == document
    assert alice.call("PUT", "/api/v1/config", document | {"stages": []}).status == 200
    assert alice.get(f"/api/v1/templates/{name}").status == 404
    assert alice.post("/api/v1/templates", _new(name)).status == 400


def test_a_template_in_use_is_not_deleted_and_its_stages_are_named(alice: Client) -> None:
    assert alice.post("/api/v1/templates", _new()).status == 201
    shop.furnish(alice, _stage_with("support.reply"), _stage_with("support.reply") | {"stage_name": "returns"})
    refused = alice.delete("/api/v1/templates/support.reply")
    assert (refused.status, refused.error_code) == (409, "CONFLICT")
    assert "returns, support" in refused.body["details"]
    assert alice.delete("/api/v1/templates/no.such").status == 404


def test_charlie_asks_for_alices_template(alice: Client, charlie: Client) -> None:
    assert alice.post("/api/v1/templates", _new()).status == 201
    path = "/api/v1/templates/support.reply"
    same = {"X_Request_ID": "the-same-request-id"}
    assert charlie.get(path, **same).body == charlie.get("/api/v1/templates/no.such", **same).body
    assert charlie.patch(path, {"text": "Mine"}).status == 404
    assert charlie.delete(path).status == 404
    assert "support.reply" not in {each["template_id"] for each in charlie.get("/api/v1/templates").body}
    assert charlie.post("/api/v1/templates", _new()).status == 201
