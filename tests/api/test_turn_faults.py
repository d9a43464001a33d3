"""A fault at every boundary of a turn, in a real server of two workers: each message gets exactly one reply."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.api import gunicorn_server, shop
from tests.api.faulty_turns import KINDS, LEASE_SECONDS
from tests.conftest import MASTER_KEY, Client, onboard

Sql = Callable[..., list[tuple[Any, ...]]]
# A turn's way: accept; select, keep, extract, keep, look up, keep; reply; save; answer.
POINTS = [
    *(f"{kind}_{when}" for kind in ("stage_selection", "data_extraction") for when in ("before", "after")),
    *(f"once{number}_{when}" for number in (1, 2, 3, 4, 5) for when in ("before", "after")),
    *(f"transaction1_{when}" for when in ("before", "after")),  # the look-up
    *(f"response_generation_{when}" for when in ("before", "after")),
    "answer_before",
]
CASES = [(point, kind) for point in POINTS for kind in KINDS]
AT_ONCE = 10
ATTEMPTS = 5
PATIENCE_SECONDS = 60
LOOK_UP = {"method": "database_query", "config": {"source": "products", "where": {"sku": "{{ data.order_number }}"}}}
STAGE = shop.ORDER_STATUS | {"data_retrieval": LOOK_UP}


@pytest.fixture
def fired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fired")


@pytest.fixture
def served(tmp_path: Path, database_url: str, fired: Path) -> Iterator[Callable[..., Client]]:
    """Start the app with faults; the key of a business in it."""
    with ExitStack() as running:

        def serve(**settings: str) -> Client:
            server = running.enter_context(
                gunicorn_server.running(
                    tmp_path,
                    database_url,
                    application="tests.api.faulty_turns:app()",
                    WEB_CONCURRENCY="2",
                    FAULTS=str(fired),
                    TURN_LEASE_S=str(LEASE_SECONDS),
                    **settings,
                )
            )
            client = onboard(Client(server.port, MASTER_KEY), "Shop")
            shop.furnish(client, STAGE, shop.SMALL_TALK)
            return client

        yield serve


def _insist(client: Client, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    """Send the same message with the same key until it is answered, as a client should."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", client.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(
                "POST",
                "/api/v1/messages",
                json.dumps(body),
                {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json", **headers},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status == 200 or (response.status == 500 and "X-Fault" not in headers):
                return response.status, answer
        except (OSError, HTTPException, ValueError):
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise AssertionError(f"no reply in {PATIENCE_SECONDS} s: {headers}")


def test_a_fault_anywhere_still_ends_in_exactly_one_reply(served: Callable[..., Client], fired: Path, sql: Sql) -> None:
    client = served(MOST_ATTEMPTS=str(len(CASES)))

    def case(number: int) -> dict[str, str]:
        """Messages until the fault has happened: a turn that another case's kill made others take over misses it."""
        point, kind = CASES[number]
        conversations = {}
        for attempt in range(ATTEMPTS):
            body = {"user_id": str(uuid.uuid4()), "message": "Where is my order or parcel 4411?"}
            headers = {"Idempotency-Key": f"case-{number}-{attempt}", "X-Fault": f"{point}/{kind}/{number}"}
            status, answer = _insist(client, body, **headers)
            assert status == 200, (point, kind, answer)
            again = _insist(client, body, **headers)[1]
            assert again == answer, (point, kind)
            conversations[body["user_id"]] = answer["conversation_id"]
            if (fired / str(number)).exists():
                return conversations
        raise AssertionError(f"{CASES[number]} never happened")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        conversations = dict(entry for found in threads.map(case, range(len(CASES))) for entry in found.items())
    told = sql(
        "SELECT conversation_id, array_agg(sender_type ORDER BY sequence) FROM messages"
        " WHERE business_id = %s GROUP BY conversation_id",
        client.business_id,
    )
    assert {conversation_id for conversation_id, _ in told} == set(conversations.values())
    assert {tuple(senders) for _, senders in told} == {("user", "ai")}
    states = sql("SELECT DISTINCT state FROM turns WHERE business_id = %s", client.business_id)
    assert states == [("done",)]


def test_a_poison_message_fails_after_five_attempts_and_its_conversation_goes_on(
    served: Callable[..., Client], sql: Sql
) -> None:
    client = served()
    user_id = str(uuid.uuid4())
    with ThreadPoolExecutor(1) as thread:
        poison = {"user_id": user_id, "message": "POISON"}
        failing = thread.submit(_insist, client, poison, **{"Idempotency-Key": "poison"})
        status, answer = failing.result()
    assert (status, answer["error_code"]) == (500, "SERVER_ERROR")
    [turn] = sql(
        "SELECT state, error_code, attempts FROM turns WHERE business_id = %s AND state <> 'done'", client.business_id
    )
    assert turn == ("failed", "SERVER_ERROR", 5)
    status, answer = _insist(client, {"user_id": user_id, "message": "Where is my order 4411?"})
    assert status == 200
    senders = client.get(f"/api/v1/conversations/{answer['conversation_id']}/messages").body
    assert [message["sender_type"] for message in senders] == ["ai", "user", "user"]
