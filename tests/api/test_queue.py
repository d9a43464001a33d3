"""Messages at once to one conversation: queued in order, refused, or answered together."""

from __future__ import annotations

import itertools
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api import acceptance
from api.settings import Settings
from db import turn_leases
from tests.api import shop
from tests.api.shop import Gate, Thinker, says
from tests.conftest import Answer, Client
from tests.nlp.model_server import Handler, fails
from tests.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]
AT_ONCE = 50


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[..., int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve, db_pool_size=4) as made:
        yield made


def _shop(thinker: Thinker, policy: str) -> Client:
    """A business with one stage, so that a turn is one question."""
    client = thinker.shop(shop.SMALL_TALK)
    changed = client.patch(f"/api/v1/businesses/{client.business_id}", {"settings": {"on_concurrent_message": policy}})
    assert changed.status == 200
    return client


def _echo(handler: Handler) -> None:
    """Says which messages it was asked to answer."""
    asked = re.findall(r"number \d+", handler.body["messages"][-1]["content"])
    says("You said: " + ", ".join(asked))(handler)


def _conversation(client: Client, user_id: str) -> str:
    """The id of a conversation that has begun."""
    answer = shop.write(client, "number 999", user_id)
    assert answer.status == 200
    return str(answer.body["conversation_id"])


def _write_at_once(client: Client, user_id: str, conversation_id: str, count: int) -> list[Answer]:
    start = threading.Barrier(count)

    def write(number: int) -> Answer:
        start.wait(20)
        return shop.write(client, f"number {number}", user_id, conversation_id=conversation_id)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(write, range(count)))


def _history(prompts: list[str]) -> list[str]:
    """The numbers in each prompt's transcript and message, in order."""
    return [" ".join(re.findall(r"(?<!You said: )number (\d+)", prompt)) for prompt in prompts]


def test_fifty_messages_are_answered_one_after_the_other(thinker: Thinker) -> None:
    client, user_id = _shop(thinker, "queue"), str(uuid.uuid4())
    running = threading.BoundedSemaphore(1)

    def alone(handler: Handler) -> None:
        assert running.acquire(blocking=False), "two turns of one conversation at once"
        _echo(handler)
        running.release()

    thinker.script(response_generation=alone)
    conversation_id = _conversation(client, user_id)
    answers = _write_at_once(client, user_id, conversation_id, AT_ONCE)
    assert [answer.status for answer in answers] == [200] * AT_ONCE
    assert [answer.body["response"] for answer in answers] == [f"You said: number {n}" for n in range(AT_ONCE)]
    turns = client.get(f"/api/v1/conversations/{conversation_id}/turns").body
    assert [turn["number"] for turn in turns] == list(range(AT_ONCE + 1, 0, -1))
    assert {turn["state"] for turn in turns} == {"done"}
    # Each prompt has what was answered before it, and nothing that waited behind it.
    order = _history(thinker.asked("response_generation"))
    assert [prompt.split()[-1] for prompt in order[1:]] == order[-1].split()[1:]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(order))


def test_a_busy_conversation_refuses_when_it_should(thinker: Thinker) -> None:
    client, user_id, gate = _shop(thinker, "reject"), str(uuid.uuid4()), Gate()
    thinker.script(response_generation=[_echo, gate.before(_echo)])
    conversation_id = _conversation(client, user_id)
    with ThreadPoolExecutor(1) as thread:
        try:
            first = thread.submit(shop.write, client, "number 1", user_id)
            assert gate.reached.wait(10)
            second = shop.write(client, "number 2", user_id)
            assert (second.status, second.error_code, second.headers["Retry-After"]) == (409, "CONVERSATION_BUSY", "1")
        finally:
            gate.opened.set()
    assert first.result().status == 200
    # Nothing of the refused message was kept.
    assert len(client.get(f"/api/v1/conversations/{conversation_id}/messages").body) == 4
    assert shop.write(client, "number 3", user_id).body["response"] == "You said: number 3"


def test_waiting_messages_are_answered_together(thinker: Thinker, sql: Sql) -> None:
    client, user_id, gate = _shop(thinker, "merge"), str(uuid.uuid4()), Gate()
    thinker.script(response_generation=[_echo, gate.before(_echo), _echo])
    conversation_id = _conversation(client, user_id)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            first = threads.submit(shop.write, client, "number 1", user_id)
            assert gate.reached.wait(10)
            rest = [threads.submit(shop.write, client, f"number {n}", user_id) for n in range(2, AT_ONCE + 1)]
            _until(sql, "SELECT count(*) FROM messages WHERE conversation_id = %s", conversation_id, AT_ONCE + 2)
        finally:
            gate.opened.set()
        assert first.result().body["response"] == "You said: number 1"
        answers = [each.result() for each in rest]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["reply_id"] for answer in answers}) == 1
    assert len({answer.body["message_id"] for answer in answers}) == AT_ONCE - 1
    told = re.findall(r"\d+", answers[0].body["response"])
    assert sorted(map(int, told)) == list(range(2, AT_ONCE + 1))
    assert len(client.get(f"/api/v1/conversations/{conversation_id}/turns").body) == 3


def test_a_message_beyond_those_that_may_wait_is_refused(
    thinker: Thinker, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MAX_WAITING", 3)
    client, user_id, gate = _shop(thinker, "queue"), str(uuid.uuid4()), Gate()
    thinker.script(response_generation=[_echo, gate.before(_echo), _echo])
    conversation_id = _conversation(client, user_id)
    with ThreadPoolExecutor(4) as threads:
        try:
            waiting = [threads.submit(shop.write, client, f"number {n}", user_id) for n in range(4)]
            _until(sql, "SELECT count(*) FROM turns WHERE conversation_id = %s", conversation_id, 5)
            over = shop.write(client, "number 5", user_id)
            assert (over.status, over.error_code) == (409, "CONVERSATION_BUSY")
        finally:
            gate.opened.set()
        assert [each.result().status for each in waiting] == [200] * 4


def test_a_message_whose_turn_does_not_come_is_not_kept(
    settings: Settings, serve: Callable[..., int], sql: Sql
) -> None:
    with shop.thinking(settings, serve, db_pool_size=4, queue_wait_s=0.4) as thinker:
        client, user_id, gate = _shop(thinker, "queue"), str(uuid.uuid4()), Gate()
        thinker.script(response_generation=[_echo, gate.before(_echo), _echo])
        conversation_id = _conversation(client, user_id)
        with ThreadPoolExecutor(1) as thread:
            try:
                first = thread.submit(shop.write, client, "number 1", user_id)
                assert gate.reached.wait(10)
                late = shop.write(client, "number 2", user_id)
                assert (late.status, late.error_code) == (409, "CONVERSATION_BUSY")
            finally:
                gate.opened.set()
        assert first.result().status == 200
        assert len(client.get(f"/api/v1/conversations/{conversation_id}/messages").body) == 4
        assert sql("SELECT count(*) FROM turns WHERE conversation_id = %s", conversation_id) == [(2,)]


def test_conversations_do_not_wait_for_each_other(thinker: Thinker) -> None:
    client, gate = _shop(thinker, "queue"), Gate()
    thinker.script(response_generation=[gate.before(_echo), _echo])
    with ThreadPoolExecutor(1) as thread:
        try:
            first = thread.submit(shop.write, client, "number 1")
            assert gate.reached.wait(10)
            assert shop.write(client, "number 2").status == 200
        finally:
            gate.opened.set()
        assert first.result().status == 200


def _until(sql: Sql, question: str, value: str, wanted: int) -> None:
    until(lambda: sql(question, value)[0][0] >= wanted, lambda: f"{sql(question, value)} never became {wanted}")


def test_a_message_that_joins_a_turn_while_another_one_leaves_it_is_answered(
    settings: Settings, serve: Callable[..., int], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.thinking(settings, serve, db_pool_size=4, queue_wait_s=0.4) as thinker:
        client, user_id, gate, joining = _shop(thinker, "merge"), str(uuid.uuid4()), Gate(), threading.Event()
        thinker.script(response_generation=[_echo, gate.before(_echo), _echo])
        conversation_id = _conversation(client, user_id)
        stored = acceptance._stored

        def store_late(conn: Any, parts: Any, key: Any, sent: Any, body: Any) -> Any:
            if body["message"] != "number 3":
                return stored(conn, parts, key, sent, body)
            with parts.database.transaction(client.business_id) as held:
                found = stored(held, parts, key, sent, body)
                joining.set()
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
                _until(sql, waits, "%FOR UPDATE OF t%", 1)
                gate.opened.set()
                return found

        monkeypatch.setattr(acceptance, "_stored", store_late)
        with ThreadPoolExecutor(3) as threads:
            try:
                first = threads.submit(shop.write, client, "number 1", user_id)
                assert gate.reached.wait(10)
                leaves = threads.submit(shop.write, client, "number 2", user_id)
                _until(sql, "SELECT count(*) FROM turns WHERE conversation_id = %s", conversation_id, 3)
                joins = threads.submit(shop.write, client, "number 3", user_id)
                assert joining.wait(10)
                assert leaves.result().error_code == "CONVERSATION_BUSY"
            finally:
                gate.opened.set()
            assert first.result().status == 200
            answer = joins.result()
        assert (answer.status, answer.body.get("response")) == (200, "You said: number 3")


def test_of_two_messages_that_leave_a_turn_at_once_the_last_takes_it_along(thinker: Thinker, sql: Sql) -> None:
    client, user_id = _shop(thinker, "merge"), str(uuid.uuid4())
    thinker.script(response_generation=_echo)
    conversation_id = _conversation(client, user_id)
    parts, business_id = thinker.app.extensions["icmp"], client.business_id

    def accepted(number: int) -> acceptance.Accepted:
        body = {"user_id": user_id, "message": f"number {number}", "conversation_id": conversation_id}
        return acceptance.accept(parts, business_id, body, None)

    def leave(message_id: str) -> bool:
        with parts.database.transaction(business_id) as conn:
            return turn_leases.withdraw(conn, business_id, message_id)

    _, one, other = accepted(1), accepted(2), accepted(3)
    assert one.turn_id == other.turn_id
    with ThreadPoolExecutor(1) as thread:
        with parts.database.transaction(business_id) as conn:
            assert turn_leases.withdraw(conn, business_id, one.message_id)
            leaving = thread.submit(leave, other.message_id)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
            _until(sql, waits, "%FOR UPDATE OF t%", 1)
        assert leaving.result()
    assert sql("SELECT count(*) FROM turns WHERE turn_id = %s", one.turn_id) == [(0,)]


def test_a_repeated_key_whose_message_is_not_kept_hears_the_same_as_the_first(
    settings: Settings, serve: Callable[..., int]
) -> None:
    with shop.thinking(settings, serve, db_pool_size=4, queue_wait_s=1.0) as thinker:
        client, user_id, gate = _shop(thinker, "queue"), str(uuid.uuid4()), Gate()
        thinker.script(response_generation=[_echo, gate.before(_echo), _echo])
        conversation_id = _conversation(client, user_id)
        body = {"user_id": user_id, "message": "number 2", "conversation_id": conversation_id}
        with ThreadPoolExecutor(3) as threads:
            try:
                first = threads.submit(shop.write, client, "number 1", user_id)
                assert gate.reached.wait(10)
                same = [threads.submit(client.post, "/api/v1/messages", body, Idempotency_Key="k") for _ in range(2)]
                heard = [(each.result().status, each.result().error_code) for each in same]
            finally:
                gate.opened.set()
            assert first.result().status == 200
        assert heard == [(409, "CONVERSATION_BUSY")] * 2
        assert client.post("/api/v1/messages", body, Idempotency_Key="k").status == 200


def test_a_message_that_found_no_stages_when_its_turn_came_hears_so_again_under_its_key(
    thinker: Thinker, sql: Sql
) -> None:
    client, user_id, gate = thinker.shop(shop.SMALL_TALK), str(uuid.uuid4()), Gate()
    thinker.script(response_generation=gate.before(_echo))
    [stage] = client.get("/api/v1/stages").body
    with ThreadPoolExecutor(2) as threads:
        try:
            first = threads.submit(shop.write, client, "number 1", user_id)
            assert gate.reached.wait(10)
            [conversation] = client.get(f"/conversations/{user_id}").body
            body = {"user_id": user_id, "message": "number 2", "conversation_id": conversation["conversation_id"]}
            waiting = threads.submit(client.post, "/api/v1/messages", body, Idempotency_Key="k")
            _until(sql, "SELECT count(*) FROM turns WHERE conversation_id = %s", conversation["conversation_id"], 2)
            assert client.delete(f"/api/v1/stages/{stage['stage_id']}").status == 204
        finally:
            gate.opened.set()
        assert first.result().status == 200
        heard = [waiting.result(), client.post("/api/v1/messages", body, Idempotency_Key="k")]
    assert [(each.status, each.error_code, each.body["message"]) for each in heard] == [
        (404, "NOT_FOUND", "No stages found for this business")
    ] * 2


def test_a_message_does_not_overtake_one_that_was_sent_again_before_it(thinker: Thinker) -> None:
    client, user_id = _shop(thinker, "merge"), str(uuid.uuid4())
    thinker.script(response_generation=fails(401))
    body = {"user_id": user_id, "message": "number 1"}
    assert client.post("/api/v1/messages", body, Idempotency_Key="k").status == 503
    parts, business_id = thinker.app.extensions["icmp"], client.business_id

    def accepted(number: int, key: str | None = None) -> acceptance.Accepted:
        return acceptance.accept(parts, business_id, body | {"message": f"number {number}"}, key)

    running, waiting, again, newest = accepted(2), accepted(3), accepted(1, "k"), accepted(4)
    assert running.number < waiting.number < again.number < newest.number
