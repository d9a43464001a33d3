"""A customer's message: which conversation it belongs to, what comes back, what is refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from api import demo
from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.conftest import Client, onboard

LIST = "/api/v1/conversations"


@pytest.fixture
def client(alice: Client) -> Client:
    """Alice's business, open for customers."""
    shop.furnish(alice, shop.ORDER_STATUS, shop.SMALL_TALK)
    return alice


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve) as made:
        yield made


@pytest.fixture
def customer() -> str:
    return str(uuid.uuid4())


def test_the_demo_asks_for_the_number_and_then_knows_it(alice: Client, customer: str) -> None:
    shop.furnish(alice, *demo.set_up()["stages"])
    asked = shop.write(alice, "Hello, where is my parcel?", customer)
    assert (asked.status, asked.body["stage"]["stage_name"]) == (200, "order_status")
    assert (asked.body["data"], asked.body["missing_fields"]) == ({}, ["order_number"])
    told = shop.write(alice, "It is 4411.", customer)
    assert told.body["conversation_id"] == asked.body["conversation_id"]
    assert (told.body["data"], told.body["missing_fields"]) == ({"order_number": "4411"}, [])
    assert (told.body["model"], told.body["degraded"], told.body["status"]) == ("icmp-offline", False, "active")
    assert told.body["response"]
    turn = alice.get(f"/api/v1/turns/{told.body['turn_id']}").body
    assert (turn["state"], turn["number"], turn["stage_name"]) == ("done", 2, "order_status")
    done = {step["kind"] for step in turn["steps"] if step["outcome"] == "ok"}
    assert done >= {"stage_selection", "data_extraction", "response_generation"}
    reply = alice.get(f"/api/v1/messages/{told.body['reply_id']}").body
    assert (reply["message_content"], reply["sender_type"]) == (told.body["response"], "ai")


def test_the_master_key_writes_for_a_business_in_any_spelling_of_its_id(master: Client, client: Client) -> None:
    answered = shop.write(master, "Where is order 4411?", business_id=client.business_id.upper())
    assert (answered.status, answered.body["data"]) == (200, {"order_number": "4411"})


def test_the_first_sketchs_paths_answer_the_same(client: Client, customer: str) -> None:
    body = {"business_id": client.business_id, "user_id": customer, "message": "Where is order 4411?"}
    answered = client.post("/message", body)
    assert (answered.status, answered.body["data"]) == (200, {"order_number": "4411"})
    [listed] = client.get(f"/conversations/{customer}").body
    assert listed["conversation_id"] == answered.body["conversation_id"]


def test_a_named_conversation_goes_on_even_beside_a_newer_one(client: Client, customer: str) -> None:
    first = shop.write(client, "Hello", customer, session_id="s-1").body["conversation_id"]
    second = shop.write(client, "Hello", customer, session_id="s-2").body["conversation_id"]
    again = shop.write(client, "Hello", customer.upper(), conversation_id=first.upper())
    assert (again.body["conversation_id"], again.body["session_id"]) == (first, "s-1")
    assert first != second


def test_a_session_keeps_its_open_conversation_and_starts_one_without(client: Client, customer: str) -> None:
    first = shop.write(client, "Hello", customer, session_id="s-1").body["conversation_id"]
    assert shop.write(client, "Hello", customer, session_id="s-1").body["conversation_id"] == first
    # The session is the customer's own: another one's of the same name is another conversation.
    assert shop.write(client, "Hello", session_id="s-1").body["conversation_id"] != first
    assert client.patch(f"{LIST}/{first}", {"status": "completed"}).status == 200
    assert shop.write(client, "Hello", customer, session_id="s-1").body["conversation_id"] != first


def test_without_a_name_the_latest_active_conversation_goes_on_until_it_is_old(
    client: Client, customer: str, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    older = shop.write(client, "Hello", customer, session_id="s-1").body["conversation_id"]
    newer = shop.write(client, "Hello", customer, session_id="s-2").body["conversation_id"]
    assert shop.write(client, "Hello", customer).body["conversation_id"] == newer
    assert client.patch(f"{LIST}/{newer}", {"status": "paused"}).status == 200
    assert shop.write(client, "Hello", customer).body["conversation_id"] == older
    sql("UPDATE conversations SET last_updated = now() - interval '31 minutes' WHERE user_id = %s", customer)
    assert shop.write(client, "Hello", customer).body["conversation_id"] not in {older, newer}


def test_a_business_without_stages_cannot_answer(alice: Client, customer: str) -> None:
    refused = shop.write(alice, "Hello", customer)
    assert (refused.status, refused.error_code) == (404, "NOT_FOUND")
    assert refused.body["message"] == "No stages found for this business"
    assert alice.get(LIST).body == []


def test_somebody_elses_conversation_looks_like_a_missing_one(client: Client, charlie: Client, customer: str) -> None:
    shop.furnish(charlie, shop.SMALL_TALK)
    conversation_id = shop.write(client, "Hello", customer).body["conversation_id"]
    # The last one knows both ids of Alice's customer, but asks from another business.
    for writer, user_id in ((client, str(uuid.uuid4())), (charlie, str(uuid.uuid4())), (charlie, customer)):
        same = {"X_Request_ID": "the-same-request-id"}
        body = {"user_id": user_id, "message": "Mine?"}
        refused = writer.post("/api/v1/messages", body | {"conversation_id": conversation_id}, **same)
        missing = writer.post("/api/v1/messages", body | {"conversation_id": str(uuid.uuid4())}, **same)
        assert (refused.status, refused.error_code) == (404, "NOT_FOUND")
        assert refused.body == missing.body
    assert len(client.get(f"{LIST}/{conversation_id}/messages").body) == 2


def test_a_completed_conversation_takes_no_more_messages(client: Client, customer: str) -> None:
    conversation_id = shop.write(client, "Hello", customer).body["conversation_id"]
    assert client.patch(f"{LIST}/{conversation_id}", {"status": "completed"}).status == 200
    refused = shop.write(client, "Hello?", customer, conversation_id=conversation_id)
    assert (refused.status, refused.error_code) == (409, "CONVERSATION_COMPLETED")
    assert shop.write(client, "Hello?", customer).body["conversation_id"] != conversation_id


def test_a_handoff_pauses_and_the_next_message_waits_for_people(alice: Client, customer: str) -> None:
    shop.furnish(alice, shop.stage("people", stage_type="handoff", fixed_text="A colleague will write to you."))
    handed = shop.write(alice, "I want a human", customer, session_id="s")
    assert (handed.status, handed.body["status"]) == (200, "paused")
    assert handed.body["response"] == "A colleague will write to you."
    waiting = shop.write(alice, "Hello?", customer, session_id="s")
    assert (waiting.status, waiting.body["response"], waiting.body["reply_id"]) == (202, None, None)
    assert waiting.body["conversation_id"] == handed.body["conversation_id"]
    stored = alice.get(f"/api/v1/messages/{waiting.body['message_id']}").body
    assert (stored["message_content"], stored["sender_type"]) == ("Hello?", "user")


def test_a_closing_stage_completes_only_with_its_data(alice: Client, customer: str) -> None:
    shop.furnish(alice, shop.stage("goodbye", stage_type="closing", fields=shop.ORDER_NUMBER))
    first = shop.write(alice, "Please close it", customer)
    assert (first.body["status"], first.body["missing_fields"]) == ("active", ["order_number"])
    last = shop.write(alice, "Order 4411", customer)
    assert (last.body["status"], last.body["missing_fields"]) == ("completed", [])
    assert last.body["conversation_id"] == first.body["conversation_id"]


def test_an_unknown_user_becomes_a_customer_and_a_known_one_keeps_the_role(
    client: Client, customer: str, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    [(owner_id,)] = sql("SELECT owner_id FROM businesses WHERE business_id = %s", client.business_id)
    for user_id, role in ((customer, "customer"), (owner_id, "owner")):
        assert shop.write(client, "Hello", user_id).status == 200
        question = "SELECT role FROM memberships WHERE business_id = %s AND user_id = %s"
        assert sql(question, client.business_id, user_id) == [(role,)]


@pytest.mark.parametrize("sessions", [[None], ["s-1", "s-2"]])
def test_first_messages_at_once_open_one_conversation_per_session(
    client: Client, customer: str, sql: Callable[..., list[tuple[Any, ...]]], sessions: list[str | None]
) -> None:
    # A known customer: the messages of a new one would wait for each other at the first step.
    before = shop.write(client, "Hello", customer).body["conversation_id"]
    assert client.patch(f"{LIST}/{before}", {"status": "completed"}).status == 200
    fields = [{"session_id": session} if session else {} for session in sessions * (20 // len(sessions))]
    with ThreadPoolExecutor(20) as threads:
        sql("BEGIN")
        sql("LOCK TABLE conversations IN SHARE ROW EXCLUSIVE MODE")
        writing = [threads.submit(shop.write, client, "Hello", customer, **more) for more in fields]
        # As many as the app has connections have looked and found nothing before the first may write.
        while sql("SELECT count(*) FROM pg_locks WHERE NOT granted") < [(8,)]:
            pass
        sql("COMMIT")
        answers = [each.result() for each in writing]
    assert {answer.status for answer in answers} == {200}
    opened = {answer.body["conversation_id"] for answer in answers}
    assert len(opened) == len(client.get(f"{LIST}?status=active").body) == len(sessions)
    for conversation_id in opened:
        numbers = sorted(turn["number"] for turn in client.get(f"{LIST}/{conversation_id}/turns").body)
        assert numbers == list(range(1, 20 // len(sessions) + 1))


def test_metadata_reaches_the_prompts_through_context_data_fields(thinker: Thinker) -> None:
    section = {"context_data_fields": {"cart": "metadata.cart"}}
    alone = shop.stage("cart_help") | {"response_generation": section}
    client = thinker.shop(alone)
    thinker.script(response_generation=shop.says("You have two lamps."))
    answered = shop.write(client, "What is in it?", metadata={"cart": ["lamp", "lamp"], "token": "not-for-the-model"})
    assert answered.body["response"] == "You have two lamps."
    [asked] = thinker.asked("response_generation")
    assert '"cart": ["lamp", "lamp"]' in asked
    assert "not-for-the-model" not in asked
    assert client.get(f"/api/v1/messages/{answered.body['message_id']}").body["metadata"]["cart"] == ["lamp", "lamp"]


def test_what_is_no_message_is_refused(client: Client, customer: str) -> None:
    assert shop.write(client, "x" * 32_000, customer).status == 200
    for bad in (
        {"message": "x" * 32_001},
        {"message": ""},
        {"message": " \t\n"},
        {"message": None},
        {"message": ["Hello"]},
        {"user_id": "somebody"},
        {"conversation_id": "latest"},
        {"session_id": ""},
        {"metadata": "cart"},
        {"agent": "me"},
    ):
        refused = client.post("/api/v1/messages", {"user_id": customer, "message": "Hello"} | bad)
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST"), bad
        assert next(iter(bad)) in refused.body["details"], refused.body


def test_charlies_customer_is_not_alices(master: Client, customer: str) -> None:
    shops = [onboard(master, name) for name in ("One", "Two")]
    for each in shops:
        shop.furnish(each, shop.SMALL_TALK)
        assert shop.write(each, "Hello", customer, session_id="s").status == 200
    first, second = (each.get(LIST).body for each in shops)
    assert len(first) == len(second) == 1
    assert first[0]["conversation_id"] != second[0]["conversation_id"]
