"""Conversations as staff see them: finding them, pausing and resuming, answering in the model's place."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.api import shop
from tests.conftest import Answer, Client

LIST = "/api/v1/conversations"


@pytest.fixture
def client(alice: Client) -> Client:
    """Alice's business, open for customers."""
    shop.furnish(alice, shop.ORDER_STATUS, shop.SMALL_TALK)
    return alice


def _begun(client: Client, message: str = "Where is my order 4411?", **fields: Any) -> str:
    answered = shop.write(client, message, **fields)
    assert answered.status == 200, answered.body
    return str(answered.body["conversation_id"])


def _ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [each["conversation_id"] for each in answer.body]


def test_a_conversation_shows_its_stage_and_what_it_collected(client: Client) -> None:
    user_id = str(uuid.uuid4())
    conversation_id = _begun(client, user_id=user_id, session_id="s-1")
    shown = client.get(f"{LIST}/{conversation_id}").body
    assert (shown["user_id"], shown["session_id"], shown["status"]) == (user_id, "s-1", "active")
    assert (shown["stage_name"], shown["data"], shown["missing_fields"]) == (
        "order_status",
        {"order_number": "4411"},
        [],
    )
    assert client.get(f"/conversations/{user_id}").body == client.get(LIST).body == [shown]


def test_lists_are_newest_first_filtered_and_paged(client: Client) -> None:
    first, second, third = (_begun(client, session_id=f"s-{number}") for number in (1, 2, 3))
    assert client.patch(f"{LIST}/{second}", {"status": "paused"}).status == 200
    shown = client.get(f"{LIST}/{second}").body
    assert _ids(client.get(LIST)) == [third, second, first]
    for name, value in (
        ("status", "paused"),
        ("session_id", "s-2"),
        ("user_id", shown["user_id"]),
        ("limit", "1&offset=1"),
        ("since", shown["start_time"] + "&limit=1&offset=1"),
    ):
        assert _ids(client.get(f"{LIST}?{name}={value}")) == [second], name
    assert _ids(client.get(f"{LIST}?until={shown['start_time']}")) == [first]
    assert _ids(client.get(f"{LIST}?stage_id={shown['stage_id']}&agent_id={uuid.uuid4()}")) == []
    page = client.get(f"{LIST}?limit=2&stage_id={shown['stage_id']}")
    link = page.headers["Link"]
    assert _ids(page) == [third, second]
    assert _ids(client.get(link[link.index("/api") : link.index(">")])) == [first]
    for bad in ("status=open", "since=yesterday", "user_id=7", "colour=red", "limit=501"):
        assert client.get(f"{LIST}?{bad}").status == 400, bad


def test_staff_pause_answer_and_resume(client: Client) -> None:
    user_id = str(uuid.uuid4())
    conversation_id = _begun(client, user_id=user_id)
    path = f"{LIST}/{conversation_id}"
    assert client.patch(path, {"status": "paused"}).body["status"] == "paused"
    waiting = shop.write(client, "Is anybody there?", user_id, conversation_id=conversation_id)
    assert (waiting.status, waiting.body["response"], waiting.body["status"]) == (202, None, "paused")
    spoken = client.post(f"{path}/messages", {"message": "Yes, one moment."})
    assert (spoken.status, spoken.body["sender_type"], spoken.body["turn_id"]) == (201, "operator", None)
    assert client.get(spoken.headers["Location"]).body == spoken.body
    assert client.patch(path, {"status": "active"}).body["status"] == "active"
    assert shop.write(client, "Thank you", user_id, conversation_id=conversation_id).status == 200
    told = client.get(f"{path}/messages").body
    assert [message["sender_type"] for message in told] == ["ai", "user", "operator", "user", "ai", "user"]
    assert told[3]["message_content"] == "Is anybody there?"


def test_messages_and_turns_page_by_cursor(client: Client) -> None:
    user_id = str(uuid.uuid4())
    conversation_id = _begun(client, "one", user_id=user_id)
    for text in ("two", "three"):
        assert shop.write(client, text, user_id).body["conversation_id"] == conversation_id
    for kind, size, name in (("messages", 4, "message_id"), ("turns", 2, "turn_id")):
        every = client.get(f"{LIST}/{conversation_id}/{kind}").body
        page = client.get(f"{LIST}/{conversation_id}/{kind}?limit={size}")
        link = page.headers["Link"]
        rest = client.get(link[link.index("/api") : link.index(">")])
        assert [each[name] for each in (*page.body, *rest.body)] == [each[name] for each in every]
        assert "Link" not in rest.headers
        assert "Link" not in client.get(f"{LIST}/{conversation_id}/{kind}?limit={len(every)}").headers, (
            "a full last page"
        )
    assert [turn["number"] for turn in every] == [3, 2, 1]


def test_a_completed_conversation_takes_no_reply_and_can_be_reopened(client: Client) -> None:
    conversation_id = _begun(client)
    path = f"{LIST}/{conversation_id}"
    assert client.patch(path, {"status": "completed"}).body["status"] == "completed"
    refused = client.post(f"{path}/messages", {"message": "One more thing"})
    assert (refused.status, refused.error_code) == (409, "CONVERSATION_COMPLETED")
    assert client.patch(path, {"status": "active"}).body["status"] == "active"


def test_a_session_is_never_open_twice(client: Client) -> None:
    user_id = str(uuid.uuid4())
    first = _begun(client, user_id=user_id, session_id="s-1")
    assert client.patch(f"{LIST}/{first}", {"status": "completed"}).status == 200
    second = _begun(client, user_id=user_id, session_id="s-1")
    assert second != first
    refused = client.patch(f"{LIST}/{first}", {"status": "active"})
    assert (refused.status, refused.error_code) == (409, "CONFLICT")
    assert "session" in refused.body["details"]


def test_a_conversation_moves_only_to_an_agent_of_the_business(
    client: Client, charlie: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    path = f"{LIST}/{_begun(client)}"
    ours, theirs = str(uuid.uuid4()), str(uuid.uuid4())
    for business_id, agent_id in ((client.business_id, ours), (charlie.business_id, theirs)):
        sql("INSERT INTO agents (business_id, agent_id, agent_name) VALUES (%s, %s, 'Kim')", business_id, agent_id)
    refused = client.patch(path, {"agent_id": theirs})
    assert (refused.status, "agent_id" in refused.body["details"]) == (400, True)
    assert client.patch(path, {"agent_id": ours}).body["agent_id"] == ours
    assert client.patch(path, {"agent_id": None}).body["agent_id"] is None


def test_changes_are_checked(client: Client) -> None:
    path = f"{LIST}/{_begun(client)}"
    changes: list[Any] = [{"status": "open"}, {"status": None}, {"data": {}}, {"stage_id": None}]
    for bad in changes:
        refused = client.patch(path, bad)
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST"), bad
    for text in ("", " \n", "x" * 32_001, 7, None):
        assert client.post(f"{path}/messages", {"message": text}).status == 400, text


def test_charlie_asks_for_alices_conversation(client: Client, charlie: Client) -> None:
    user_id = str(uuid.uuid4())
    conversation_id = _begun(client, user_id=user_id)
    path, missing = f"{LIST}/{conversation_id}", f"{LIST}/{uuid.uuid4()}"
    [turn] = client.get(f"{path}/turns").body
    message = client.get(f"{path}/messages").body[0]
    same = {"X_Request_ID": "the-same-request-id"}
    for tail in ("", "/messages", "/turns"):
        assert charlie.get(path + tail, **same).body == charlie.get(missing + tail, **same).body
    answers = (
        charlie.get(path),
        charlie.patch(path, {"status": "paused"}),
        charlie.post(f"{path}/messages", {"message": "Hello"}),
        charlie.get(f"/api/v1/turns/{turn['turn_id']}"),
        charlie.get(f"/api/v1/messages/{message['message_id']}"),
    )
    assert [(answer.status, answer.error_code) for answer in answers] == [(404, "NOT_FOUND")] * len(answers)
    assert charlie.get(LIST).body == charlie.get(f"/conversations/{user_id}").body == []
