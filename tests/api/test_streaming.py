"""A turn as Server-Sent Events: as it happens, whole for a repeated key, going on without its reader, never silent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api import streaming
from api.settings import Settings
from tests.api import shop
from tests.api.shop import Gate, Thinker, finds, picks, says
from tests.conftest import Client
from tests.nlp.model_server import Behaviour, Handler, fails

Events = list[tuple[str, Any]]
REPLY = "It is on its way."
GOOD: dict[str, Behaviour] = {
    "stage_selection": picks("order_status"),
    "data_extraction": finds(order_number="4411"),
    "response_generation": says(REPLY),
}


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[..., int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve, db_pool_size=4) as made:
        yield made


@pytest.fixture
def client(thinker: Thinker) -> Client:
    return thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)


def _body() -> dict[str, Any]:
    return {"user_id": str(uuid.uuid4()), "message": "Where is 4411?"}


def _begin(
    client: Client, body: dict[str, Any], further: dict[str, str] | None = None, *, status: int = 200
) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", client.port, timeout=30)
    sent = {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/messages", json.dumps(body), sent | (further or {}))
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"].split(";")[0]) == (status, "text/event-stream")
    return response


def _next(response: HTTPResponse) -> tuple[str, Any]:
    """The next event, or a comment as ("", its text)."""
    lines = []
    while line := response.readline().decode().rstrip("\n"):
        lines.append(line)
    if lines[0].startswith(":"):
        return "", lines[0]
    assert [line.partition(": ")[0] for line in lines] == ["event", "data"]
    return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))


def _all(response: HTTPResponse) -> Events:
    events: Events = []
    while not events or events[-1][0] not in {"done", "error"}:
        events.append(_next(response))
    assert response.read() == b""
    return events


def _pieces(*pieces: str, gate: Gate | None = None) -> Behaviour:
    """A streamed reply; the last piece waits for the gate."""

    def behave(handler: Handler) -> None:
        assert handler.body["stream"] is True
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for place, piece in enumerate(pieces):
            if gate is not None and place == len(pieces) - 1:
                gate.reached.set()
                gate.opened.wait(20)
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            handler.wfile.write(f"data: {json.dumps({'model': 'm-1', 'choices': [choice]})}\n\n".encode())
            handler.wfile.flush()
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        handler.wfile.write(f"data: {json.dumps({'model': 'm-1', 'choices': [last]})}\n\ndata: [DONE]\n\n".encode())
        handler.close_connection = True

    return behave


def test_events_come_as_the_turn_goes_on(thinker: Thinker, client: Client) -> None:
    gate = Gate()
    thinker.script(**GOOD | {"response_generation": _pieces("It is", " on its", " way.", gate=gate)})
    response = _begin(client, _body() | {"stream": True})
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-store"
    try:
        early = [_next(response) for _ in range(4)]
        assert [kind for kind, _ in early] == ["stage", "data", "token", "token"]
        assert early[0][1]["stage_name"] == "order_status"
        assert early[1][1] == {"data": {"order_number": "4411"}, "missing_fields": []}
        assert gate.reached.is_set() or gate.reached.wait(5)
    finally:
        gate.opened.set()
    late = _all(response)
    assert [kind for kind, _ in late] == ["token", "done"]
    told = "".join(value["text"] for kind, value in early + late if kind == "token")
    assert told == late[-1][1]["response"] == REPLY
    assert client.get(f"/api/v1/messages/{late[-1][1]['reply_id']}").body["message_content"] == REPLY


def test_the_accept_header_asks_for_events_too(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD | {"response_generation": _pieces(REPLY)})
    assert _all(_begin(client, _body(), {"Accept": "text/event-stream"}))[-1][0] == "done"


def test_a_repeated_key_gets_the_same_answer_in_either_form(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD)
    body, key = _body(), {"Idempotency-Key": "s-1"}
    plain = client.post("/api/v1/messages", body, Idempotency_Key="s-1").body
    response = _begin(client, body | {"stream": True}, key)
    assert response.headers["Idempotent-Replayed"] == "true"
    events = _all(response)
    assert [kind for kind, _ in events] == ["stage", "data", "token", "done"]
    assert events[2][1] == {"text": REPLY}
    assert events[3][1] == plain


def test_a_reader_who_goes_away_neither_stops_nor_doubles_the_turn(thinker: Thinker, client: Client) -> None:
    gate, body = Gate(), _body()
    thinker.script(**GOOD | {"response_generation": _pieces("It is", " on its way.", gate=gate)})
    response = _begin(client, body | {"stream": True}, {"Idempotency-Key": "s-2"})
    assert [_next(response)[0] for _ in range(3)] == ["stage", "data", "token"]
    response.close()
    gate.opened.set()
    again = client.post("/api/v1/messages", body, Idempotency_Key="s-2")
    assert (again.status, again.body["response"]) == (200, REPLY)
    assert len(thinker.asked("response_generation")) == 1
    said = client.get(f"/api/v1/conversations/{again.body['conversation_id']}/messages").body
    assert [message["sender_type"] for message in said] == ["ai", "user"]


def test_a_failure_is_the_last_event(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD | {"response_generation": fails(401)})
    events = _all(_begin(client, _body() | {"stream": True}))
    assert [kind for kind, _ in events] == ["stage", "data", "error"]
    assert events[-1][1]["error_code"] == "LLM_UNAVAILABLE"
    assert events[-1][1]["request_id"]


def test_a_fallback_text_comes_after_what_is_missing(thinker: Thinker) -> None:
    lacking = shop.ORDER_STATUS | {"response_generation": {"fallback_text": "Need: {{ missing_fields }}"}}
    for kind in ("stage_selection", "data_extraction"):
        client = thinker.shop(lacking, shop.SMALL_TALK)
        thinker.script(**GOOD)
        body = _body()
        assert client.post("/api/v1/messages", body | {"message": "Hi"}).status == 200
        thinker.script(**GOOD | {"data_extraction": finds(order_number=None), kind: fails(401)})
        events = _all(_begin(client, body | {"stream": True}))
        assert [event for event, _ in events] == ["stage", "data", "token", "done"]
        told, done = events[1][1], events[-1][1]
        assert told["missing_fields"] == done["missing_fields"]
        assert done["response"] == events[2][1]["text"] == f"Need: {json.dumps(done['missing_fields'])}"


def test_every_event_is_as_the_document_promises(thinker: Thinker, client: Client) -> None:
    document = client.get("/openapi.json").body
    content = document["paths"]["/api/v1/messages"]["post"]["responses"]["200"]["content"]
    promised = {
        kind["properties"]["event"]["const"]: kind["properties"]["data"]["contentSchema"]
        for kind in content["text/event-stream"]["schema"]["oneOf"]
    }
    events: Events = []
    for reply in (_pieces("It is", " on its way."), fails(401)):
        thinker.script(**GOOD | {"response_generation": reply})
        events += _all(_begin(client, _body() | {"stream": True}))
    assert {kind for kind, _ in events} == set(promised)
    for kind, value in events:
        validator = Draft202012Validator(promised[kind] | {"components": document["components"]})
        assert [fault.message for fault in validator.iter_errors(value)] == []


def test_a_failure_in_a_stream_says_how_long_to_wait(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD | {"response_generation": fails(401, headers={"Retry-After": "7"})})
    _, told = _all(_begin(client, _body() | {"stream": True}))[-1]
    assert told["remediation"] == "Try again after 7 seconds"
    plain = client.post("/api/v1/messages", _body())
    assert (plain.headers["Retry-After"], plain.body["remediation"]) == ("7", "Try again after Retry-After seconds")


def test_silence_is_filled(thinker: Thinker, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.streaming.HEARTBEAT_SECONDS", 0.05)
    gate = Gate()
    thinker.script(**GOOD | {"stage_selection": gate.before(GOOD["stage_selection"])})
    response = _begin(client, _body() | {"stream": True})
    assert _next(response) == ("", ": still at work")
    gate.opened.set()
    assert [kind for kind, _ in _all(response) if kind][-1] == "done"


def test_what_is_refused_before_the_turn_is_a_plain_error(client: Client) -> None:
    refused = client.post("/api/v1/messages", {"user_id": "x", "message": "Hi", "stream": True})
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")


def test_people_who_answer_are_told_at_once(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD)
    body = _body()
    conversation_id = client.post("/api/v1/messages", body).body["conversation_id"]
    assert client.patch(f"/api/v1/conversations/{conversation_id}", {"status": "paused"}).status == 200
    events = _all(_begin(client, body | {"conversation_id": conversation_id, "stream": True}, status=202))
    assert [kind for kind, _ in events] == ["stage", "data", "done"]
    assert (events[-1][1]["response"], events[-1][1]["status"]) == (None, "paused")


def test_beyond_the_bound_messages_are_refused_and_the_rest_goes_on(
    settings: Settings, serve: Callable[..., int]
) -> None:
    with shop.thinking(settings, serve, turns_at_once=1) as thinker:
        client, gate = thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK), Gate()
        thinker.script(**GOOD | {"stage_selection": gate.before(GOOD["stage_selection"])})
        with ThreadPoolExecutor(1) as thread:
            try:
                events = thread.submit(lambda: _all(_begin(client, _body() | {"stream": True})))
                assert gate.reached.wait(10)
                refused = client.post("/api/v1/messages", _body())
                assert (refused.status, refused.error_code) == (503, "LLM_UNAVAILABLE")
                assert refused.headers["Retry-After"] == "1"
                assert client.get("/api/v1/stages").status == 200
            finally:
                gate.opened.set()
            assert events.result()[-1][0] == "done"
        assert client.post("/api/v1/messages", _body()).status == 200


def test_a_stream_that_cannot_begin_leaves_its_place_to_others(
    settings: Settings, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.thinking(settings, serve, turns_at_once=1) as thinker:
        client = thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)
        thinker.script(**GOOD)

        def refuse() -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as crowded:
            crowded.setattr(streaming, "threading", SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=refuse)))
            headers = {"Authorization": f"Bearer {client.key}"}
            sent = thinker.app.test_client().post("/api/v1/messages", json=_body() | {"stream": True}, headers=headers)
        assert sent.status_code == 500
        assert client.post("/api/v1/messages", _body()).status == 200
