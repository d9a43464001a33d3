"""The same Idempotency-Key: one turn, one reply, the same bytes; also at once, after a failure and after a restart."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

import app as application
from api.settings import Settings
from tests.api import shop
from tests.api.shop import Gate, Thinker, finds, picks, says
from tests.conftest import Answer, Client
from tests.nlp.model_server import Behaviour, fails

GOOD: dict[str, Behaviour] = {
    "stage_selection": picks("order_status"),
    "data_extraction": finds(order_number="4411"),
    "response_generation": says("It is on its way."),
}


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[..., int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve, db_pool_size=8) as made:
        yield made


@pytest.fixture
def client(thinker: Thinker) -> Client:
    thinker.script(**GOOD)
    return thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)


@pytest.fixture
def body() -> dict[str, Any]:
    """A message of a new customer."""
    return {"user_id": str(uuid.uuid4()), "message": "Where is 4411?"}


def _send(client: Client, body: dict[str, Any], key: str) -> Answer:
    return client.post("/api/v1/messages", body, Idempotency_Key=key)


def _raw(client: Client, body: dict[str, Any], key: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", client.port, timeout=30)
    headers = {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json", "Idempotency-Key": key}
    connection.request("POST", "/api/v1/messages", json.dumps(body), headers)
    return connection.getresponse().read()


def _spoken(client: Client, conversation_id: str) -> list[str]:
    told = client.get(f"/api/v1/conversations/{conversation_id}/messages").body
    return [message["sender_type"] for message in reversed(told)]


def test_the_same_key_gets_the_same_bytes_and_asks_no_model_twice(
    thinker: Thinker, client: Client, body: dict[str, Any]
) -> None:
    first = _raw(client, body, "k-1")
    asked = len(thinker.server.bodies)
    again = _send(client, body, "k-1")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert _raw(client, body, "k-1") == first
    assert len(thinker.server.bodies) == asked
    assert _spoken(client, again.body["conversation_id"]) == ["user", "ai"]


def test_without_a_key_every_message_is_a_new_one(client: Client, body: dict[str, Any]) -> None:
    answers = [client.post("/api/v1/messages", body) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert all("Idempotent-Replayed" not in answer.headers for answer in answers)
    assert len({answer.body["turn_id"] for answer in answers}) == 2


def test_another_body_under_the_key_is_refused_but_stream_and_spelling_do_not_count(
    client: Client, body: dict[str, Any]
) -> None:
    assert _send(client, body, "k-2").status == 200
    other = _send(client, body | {"message": "Where is 4412?"}, "k-2")
    assert (other.status, other.error_code) == (422, "IDEMPOTENCY_KEY_REUSED")
    same = _send(client, body | {"stream": False, "user_id": body["user_id"].upper()}, "k-2")
    assert (same.status, same.headers["Idempotent-Replayed"]) == (200, "true")


def test_a_key_is_one_business_own(client: Client, thinker: Thinker, body: dict[str, Any]) -> None:
    charlie = thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)
    ours, theirs = _send(client, body, "k-3"), _send(charlie, body, "k-3")
    assert (theirs.status, "Idempotent-Replayed" in theirs.headers) == (200, False)
    assert ours.body["turn_id"] != theirs.body["turn_id"]


def test_twenty_at_once_are_one_turn(thinker: Thinker, client: Client, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: _send(client, body, "k-4"), range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({json.dumps(answer.body) for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert len(thinker.asked("response_generation")) == 1
    assert _spoken(client, answers[0].body["conversation_id"]) == ["user", "ai"]


def test_a_key_whose_first_request_is_still_at_work_is_told_so_in_the_end(
    thinker: Thinker, client: Client, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.replies.REPEATED_WAIT_SECONDS", 0.3)
    gate = Gate()
    thinker.script(**GOOD | {"response_generation": gate.before(GOOD["response_generation"])})
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(_send, client, body, "k-5")
        try:
            assert gate.reached.wait(10)
            early = _send(client, body, "k-5")
            assert (early.status, early.error_code, early.headers["Retry-After"]) == (409, "TURN_IN_PROGRESS", "1")
        finally:
            gate.opened.set()
    assert first.result().status == 200
    assert _send(client, body, "k-5").body == first.result().body


def test_after_a_model_failure_the_key_resumes_the_turn_behind_its_finished_steps(
    thinker: Thinker, client: Client, body: dict[str, Any]
) -> None:
    thinker.script(**GOOD | {"response_generation": fails(401)})
    failed = _send(client, body, "k-6")
    assert (failed.status, failed.error_code) == (503, "LLM_UNAVAILABLE")
    thinker.script(**GOOD)
    resumed = _send(client, body, "k-6")
    assert (resumed.status, resumed.body["response"]) == (200, "It is on its way.")
    assert [thinker.asked(kind) == [] for kind in GOOD] == [True, True, False]
    assert _spoken(client, resumed.body["conversation_id"]) == ["user", "ai"]
    steps = client.get(f"/api/v1/turns/{resumed.body['turn_id']}").body["steps"]
    assert [(step["kind"], step["outcome"]) for step in steps] == [
        ("stage_selection", "ok"),
        ("data_extraction", "ok"),
        ("response_generation", "failed"),
        ("response_generation", "ok"),
    ]


def test_a_message_for_people_is_stored_once(client: Client, body: dict[str, Any]) -> None:
    conversation_id = _send(client, body, "k-7").body["conversation_id"]
    assert client.patch(f"/api/v1/conversations/{conversation_id}", {"status": "paused"}).status == 200
    named = body | {"conversation_id": conversation_id}
    answers = [_send(client, named, "k-8") for _ in range(2)]
    assert [(answer.status, answer.body["response"]) for answer in answers] == [(202, None)] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert answers[0].body == answers[1].body
    assert _spoken(client, conversation_id) == ["user", "ai", "user"]


def test_another_process_knows_the_key_too(
    settings: Settings, serve: Callable[..., int], client: Client, body: dict[str, Any]
) -> None:
    first = _raw(client, body, "k-9")
    elsewhere = Client(serve(application.create_app(settings)), client.key, client.business_id)
    assert _raw(elsewhere, body, "k-9") == first


@pytest.mark.parametrize("key", ["", "k" * 256, "naïve", "a\tb"])
def test_a_key_that_is_none_is_refused(client: Client, body: dict[str, Any], key: str) -> None:
    refused = client.post("/api/v1/messages", body, Idempotency_Key=key.encode("latin-1"))
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert "Idempotency-Key" in refused.body["details"]


def test_the_longest_key_is_taken(client: Client, body: dict[str, Any]) -> None:
    assert _send(client, body, "k" * 255).status == 200


def test_neither_key_nor_message_nor_answer_can_be_read_in_the_table(
    client: Client, body: dict[str, Any], sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    message_id = _send(client, body, "k-very-secret").body["message_id"]
    [row] = sql("SELECT key_hash, fingerprint, answer FROM message_requests WHERE message_id = %s", message_id)
    stored = b"".join(bytes(value) for value in row)
    assert b"k-very-secret" not in stored
    assert b"4411" not in stored
    assert b"on its way" not in stored
