"""Who is let in, for which business, and which fault is told first when there are several."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

import auth
from tests.conftest import MASTER_KEY, Answer, Client

Sql = Callable[..., list[tuple[Any, ...]]]
STAGE = {"stage_name": "welcome", "stage_type": "information", "stage_description": "Anything."}


def _without_id(answer: Answer) -> dict[str, Any]:
    assert answer.error_code
    return {name: value for name, value in answer.body.items() if name != "request_id"}


def _stage(owner: Client, name: str = "welcome") -> str:
    created = owner.post("/api/v1/stages", STAGE | {"stage_name": name})
    assert created.status == 201, created.body
    return str(created.body["stage_id"])


def test_a_key_opens_its_own_business_and_the_master_key_any(master: Client, alice: Client) -> None:
    path = f"/api/v1/businesses/{alice.business_id}"
    assert alice.get(path).status == master.get(path).status == 200
    assert alice.get(path).body == master.get(path).body


def test_a_made_key_fits_its_checksum_and_no_single_mistyped_character_passes() -> None:
    key = auth.make_key("biz")
    assert key.startswith("icmp_biz_")
    assert auth.is_well_formed(key)
    for place, character in enumerate(key):
        typo = key[:place] + ("x" if character != "x" else "y") + key[place + 1 :]
        assert not auth.is_well_formed(typo)


def test_every_kind_of_wrong_key_gets_the_same_answer(port: int, alice: Client, sql: Sql) -> None:
    keys = f"/api/v1/businesses/{alice.business_id}/api-keys"
    revoked, expired = (alice.post(keys, {"name": name}).body for name in ("revoked", "expired"))
    assert alice.delete(f"{keys}/{revoked['key_id']}").status == 204
    sql("UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s", expired["key_id"])
    wrong = [revoked["api_key"], expired["api_key"], auth.make_key("biz"), auth.make_key("ses"), auth.make_key("abc")]
    wrong += [str(alice.key)[:-1], str(alice.key)[:-1] + "*", str(alice.key).upper(), "icmp_", "x", "Bearer", "\xe9"]
    wrong += [MASTER_KEY[:-1], MASTER_KEY + "x", MASTER_KEY.upper()]
    answers = [Client(port, key).get("/api/v1/stages") for key in wrong]
    answers += [Client(port).get("/api/v1/stages", Cookie=f"businessApiKey={key}") for key in wrong]
    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert len({str(_without_id(answer)) for answer in answers}) == 1


def test_only_the_bearer_scheme_counts_in_any_case(alice: Client, anybody: Client) -> None:
    for value in (f"Basic {alice.key}", f"Token {alice.key}", str(alice.key), "Bearer", f"Bearer{alice.key}"):
        assert anybody.get("/api/v1/stages", Authorization=value).status == 401
    assert anybody.get("/api/v1/stages").status == 401
    assert anybody.get("/api/v1/stages", Authorization=f"bearer   {alice.key} ").status == 200


def test_the_authorization_header_beats_the_cookie(port: int, alice: Client, charlie: Client) -> None:
    cookie = f"businessApiKey={charlie.key}"
    assert Client(port).get("/api/v1/stages", Cookie=cookie).status == 200
    assert Client(port, auth.make_key("biz")).get("/api/v1/stages", Cookie=cookie).status == 401
    assert alice.get(f"/api/v1/businesses/{alice.business_id}", Cookie=cookie).status == 200
    assert alice.get(f"/api/v1/businesses/{charlie.business_id}", Cookie=cookie).status == 403


def test_the_master_key_does_not_count_as_a_cookie(alice: Client, anybody: Client) -> None:
    cookie = f"businessApiKey={MASTER_KEY}"
    assert anybody.get("/api/v1/businesses", Cookie=cookie).status == 401
    assert anybody.get(f"/api/v1/stages?business_id={alice.business_id}", Cookie=cookie).status == 401


def _named(caller: Client, place: str, business_id: Any) -> Answer:
    if place == "path":
        return caller.get(f"/api/v1/businesses/{business_id}")
    if place == "query":
        return caller.get(f"/api/v1/stages?business_id={business_id}")
    return caller.post("/api/v1/stages", STAGE | {"business_id": business_id, "stage_name": uuid.uuid4().hex})


@pytest.mark.parametrize("place", ["path", "query", "body"])
def test_a_named_business_must_be_the_keys_own(place: str, alice: Client, charlie: Client) -> None:
    fine = 201 if place == "body" else 200
    assert _named(alice, place, alice.business_id).status == fine
    assert _named(alice, place, alice.business_id.upper()).status == fine
    for other in (charlie.business_id, charlie.business_id.upper(), charlie.business_id.replace("-", ""), uuid.uuid4()):
        answer = _named(alice, place, str(other))
        assert (answer.status, answer.error_code) == (403, "FORBIDDEN")
    for malformed in ("no-uuid", alice.business_id[:-1], f"%7B{alice.business_id}%7D"):
        answer = _named(alice, place, malformed)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
        assert "business_id" in answer.body["details"]


@pytest.mark.parametrize("value", [5, True, None, [], {"a": 1}, ""])
def test_a_business_id_of_another_kind_is_refused(value: Any, alice: Client, master: Client) -> None:
    for caller in (alice, master):
        answer = _named(caller, "body", value)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")


def test_the_master_must_name_the_business(master: Client, alice: Client) -> None:
    unnamed = master.get("/api/v1/stages")
    assert (unnamed.status, unnamed.error_code) == (400, "INVALID_REQUEST")
    assert "business_id" in unnamed.body["details"]
    assert _named(master, "query", alice.business_id).status == 200
    assert _named(master, "body", alice.business_id).status == 201
    assert [_named(master, place, uuid.uuid4()).status for place in ("path", "query")] == [404, 404]
    assert [_named(master, place, "no-uuid").status for place in ("path", "query", "body")] == [400, 400, 400]
    assert master.post("/api/v1/stages", STAGE).status == 400


def test_a_delete_may_name_its_business_in_a_body(master: Client, alice: Client, charlie: Client) -> None:
    path = f"/api/v1/stages/{_named(alice, 'body', alice.business_id).body['stage_id']}"
    for caller, body, status in (
        (alice, {"business_id": charlie.business_id}, 403),
        (charlie, {"business_id": alice.business_id}, 403),
        (master, {"business_id": charlie.business_id}, 404),
        (master, {}, 400),
        *((caller, {"business_id": value}, 400) for caller in (alice, master) for value in ("", "x", 5, None)),
        (master, {"business_id": alice.business_id}, 204),
    ):
        assert caller.call("DELETE", path, body).status == status
    assert alice.call("DELETE", path, raw=b"").status == 404
    assert alice.call("DELETE", path, raw=b"{").status == 400
    assert master.call("DELETE", f"/api/v1/businesses/{alice.business_id}", {"business_id": "x"}).status == 400


def test_without_a_business_the_masters_templates_are_the_global_ones(master: Client) -> None:
    listed = master.get("/api/v1/templates")
    assert listed.status == 200
    assert {template["business_id"] for template in listed.body} == {None}


def test_what_the_master_writes_under_a_capital_business_id_stays_readable(master: Client, alice: Client) -> None:
    _stage(alice)
    loud = {"business_id": alice.business_id.upper(), "user_id": str(uuid.uuid4()).upper(), "message": "Hello there"}
    said = master.post("/api/v1/messages", loud)
    assert said.status == 200, said.body
    for conversation_id in (said.body["conversation_id"], said.body["conversation_id"].upper()):
        heard = alice.get(f"/api/v1/conversations/{conversation_id}/messages")
        assert [message["message_content"] for message in heard.body][-1] == "Hello there"


def test_anothers_object_and_a_missing_one_answer_alike(alice: Client, charlie: Client) -> None:
    theirs = f"/api/v1/stages/{_stage(charlie)}"
    missing = f"/api/v1/stages/{uuid.uuid4()}"
    for ask in (alice.get, alice.delete, lambda path: alice.patch(path, {"stage_description": "mine"})):
        answers = [ask(theirs), ask(missing)]
        assert [answer.status for answer in answers] == [404, 404]
        assert _without_id(answers[0]) == _without_id(answers[1])
    assert charlie.get(theirs).body["stage_description"] == "Anything."


def test_of_several_faults_the_earlier_one_is_told(anybody: Client, alice: Client, charlie: Client) -> None:
    first, second = _stage(alice, "first"), _stage(alice, "second")
    stages, wrong = "/api/v1/stages", Client(anybody.port, "wrong")
    not_ours, odd = {"business_id": charlie.business_id, "colour": "red"}, {"colour": "red"}
    ladder = [
        (wrong.call("POST", "/api/v1/nowhere", raw=b"{", Content_Type="text/plain"), 404),
        (wrong.call("PUT", stages, raw=b"{", Content_Type="text/plain"), 405),
        (wrong.call("POST", stages, raw=b"{", Content_Type="text/plain"), 401),
        (alice.call("POST", stages, raw=b"{", Content_Type="text/plain"), 415),
        (alice.call("POST", stages, raw=b"[" * 2**20 + b"[", Content_Type="application/json"), 413),
        (alice.call("POST", f"{stages}?business_id={charlie.business_id}", raw=b"{"), 400),
        (alice.call("POST", "/api/v1/businesses", raw=b"{"), 400),
        (alice.post("/api/v1/businesses", odd), 403),
        (alice.patch(f"{stages}/{uuid.uuid4()}", not_ours), 403),
        (alice.patch(f"{stages}/{uuid.uuid4()}", odd), 400),
        (alice.patch(f"{stages}/{uuid.uuid4()}", {"stage_name": "first"}), 404),
        (alice.patch(f"{stages}/{second}", {"stage_name": "first"}), 409),
        (alice.patch(f"{stages}/{first}", {"stage_name": "first"}), 200),
    ]
    assert [answer.status for answer, _ in ladder] == [status for _, status in ladder]
    assert ladder[5][0].body["details"].startswith("the body is not JSON")


def test_on_a_public_route_an_unread_body_outranks_a_bad_query(anybody: Client) -> None:
    events = "/api/v1/events?colour=red"
    assert anybody.call("POST", events, raw=b"{", Content_Type="text/plain").status == 415
    assert "not JSON" in anybody.call("POST", events, raw=b"{").body["details"]
    assert "colour" in anybody.call("POST", events, raw=b"{}").body["details"]
